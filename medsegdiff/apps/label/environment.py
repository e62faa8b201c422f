"""Whether MONAI Label can be used here, and how."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from medsegdiff.errors import SpecError


def require_monailabel() -> None:
    """Make sure that MONAI Label is installed, and make it importable.

    Raises:
        SpecError: it is not installed; the message tells how to make the environment.
    """
    if importlib.util.find_spec("monailabel") is None:
        msg = (
            "MONAI Label is not installed in this environment; make one that has it with `make label-env` and run "
            ".venv-label/bin/medsegdiff label"
        )
        raise SpecError(msg)
    from medsegdiff.apps.label.torchvision_ops import load_torchvision

    load_torchvision()
    # MONAI Label calls the tools that came with its packages by name, and starts processes that inherit both.
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [tools, os.environ.get("PATH")]))
    os.environ.setdefault("PYTHONPATH", "")
