"""Methods by name, the specification of a run, and segmenters built from it."""

# Each registers its methods, and listings show them in this order.
# isort: off
from medsegdiff.methods import recycling_family as _recycling_family
from medsegdiff.methods import segdiff as _segdiff
from medsegdiff.methods import cdal as _cdal
# isort: on

from medsegdiff.methods.build import (
    build_segmenter,
    load_segmenter,
    load_state,
    prediction_of,
    save_weights,
    spec_path,
)
from medsegdiff.methods.registry import METHODS, Method, get_method, register
from medsegdiff.methods.run_spec import SIZES, RunSpec

__all__ = [
    "METHODS",
    "SIZES",
    "Method",
    "RunSpec",
    "build_segmenter",
    "get_method",
    "load_segmenter",
    "load_state",
    "prediction_of",
    "register",
    "save_weights",
    "spec_path",
]

del _cdal, _recycling_family, _segdiff
