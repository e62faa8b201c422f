"""Where MONAI Label finds the app, in the server and in the processes that train and score."""

from __future__ import annotations

from medsegdiff.apps.label.environment import require_monailabel
from medsegdiff.apps.label.logs import quiet

require_monailabel()
quiet()

from medsegdiff.apps.label.app import LabelApp  # noqa: E402

__all__ = ["LabelApp"]
