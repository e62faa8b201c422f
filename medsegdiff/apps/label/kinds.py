"""Whether a series was made by the kind of device that a bundle learnt the images of."""

from __future__ import annotations

from medsegdiff.errors import DataError

# DICOM's words (PS3.3, C.7.3.1.1.1) by kind; bundles of other images, such as of stained tissue, are not asked.
_KINDS = {
    "CT": ("CT",),
    "MR": ("MR",),
    "PT": ("PT",),
    "US": ("US", "IVUS"),
    "CR": ("CR", "DX", "RG"),
    "DX": ("CR", "DX", "RG"),
}


def check_kind(modality: str, kind: str, bundle: str) -> None:
    """Make sure that a bundle can be asked about a series.

    Args:
        modality: of the series.
        kind: of the bundle's images; any word that is none of DICOM's allows all.
        bundle: its name.

    Raises:
        DataError: the series is of another kind.
    """
    allowed = _KINDS.get(kind)
    if allowed is not None and modality not in allowed:
        msg = (
            f"got a series of modality {modality or 'none'}; {bundle} segments {' and '.join(allowed)}: open another "
            "series, or take another model"
        )
        raise DataError(msg)
