"""Results as DICOM segmentations, which MONAI Label would have a tool write that knows nothing of the bundles."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine
from typing import Any

from medsegdiff.apps.label.options import DICOM_SUFFIX

_DICOM_SEG, _IMAGE = "dicom_seg", "image"


def with_dicom_segmentations(
    endpoint: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """MONAI Label's endpoint of inference, with the app's own files where it is asked for `output=dicom_seg`."""

    @functools.wraps(endpoint)
    async def asked(**arguments: Any) -> Any:
        if arguments.get("output") != _DICOM_SEG:
            return await endpoint(**arguments)
        params = json.loads(arguments.get("params") or "{}")
        params = json.dumps({**params, "result_extension": DICOM_SUFFIX})
        reply = await endpoint(**{**arguments, "output": _IMAGE, "params": params})
        reply.headers["content-type"] = "application/dicom"
        return reply

    return asked
