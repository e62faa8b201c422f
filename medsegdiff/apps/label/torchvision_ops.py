"""torchvision beside a torch without CUDA, for MONAI Label, which imports it whether it is used or not."""

from __future__ import annotations

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []


def load_torchvision() -> None:
    """Import torchvision, whose operators need not be there.

    The wheel on PyPI is built with CUDA. Beside a torch without, its library does not load, and its import ends with
    "operator torchvision::nms does not exist". Once operators of these names are declared it succeeds; they are
    declared only, so that calling one says that it has no implementation. What MONAI Label takes from torchvision,
    pictures of image grids, needs none of them. To be called before anything of `monailabel` is imported.
    """
    try:
        import torchvision
    except (RuntimeError, ImportError) as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _OPERATORS:
        library.define(schema)
    _kept.append(library)  # the operators go when it does
    import torchvision  # noqa: F401
