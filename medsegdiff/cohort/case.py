"""One case of a cohort: the image to segment, and the results that are written for it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.errors import DataError, MedSegDiffError, one_line

if TYPE_CHECKING:
    from medsegdiff.data.modalities import Modalities
    from medsegdiff.inferers.predictor import BundlePredictor, CasePrediction


@dataclass(frozen=True)
class Case:
    """An image to segment.

    Attributes:
        name: unique in its cohort; its results are called after it.
        path: an image file, or a folder of one DICOM series.
        folder: where results go.
        kinds: what is written: "label", and any of "probabilities", "entropy" and "variance".
        others: the files of the further channels, of an image that has a file a channel.
    """

    name: str
    path: Path
    folder: Path
    kinds: tuple[str, ...] = ("label",)
    others: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the image, in the order of its channels."""
        return (self.path, *self.others)

    def output_paths(self) -> dict[str, Path]:
        """The file of each kind; which are there in the end depends on the network, too."""
        from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix

        label, other = (".png", ".tif") if image_suffix(self.path) in PICTURE_SUFFIXES else (".nii.gz", ".nii.gz")
        suffixes = {kind: label if kind == "label" else f"_{kind}{other}" for kind in self.kinds}
        return {kind: self.folder / f"{self.name}{suffix}" for kind, suffix in suffixes.items()}

    def absolute(self) -> Case:
        """The same case for a process with another working folder."""
        path, folder, *others = (Path(os.path.abspath(p)) for p in (self.path, self.folder, *self.others))
        return replace(self, path=path, folder=folder, others=tuple(others))


def name_cases(
    images: Sequence[Path | Sequence[Path]],
    folder: Path,
    *,
    kinds: Sequence[str] = ("label",),
    modalities: Modalities | None = None,
) -> list[Case]:
    """A case for each image, once it is known that no result would replace an image or another result.

    Args:
        images: the file of each, or its files in the order of the channels.
        folder: where results go.
        kinds: what is written, see `Case`.
        modalities: names of the channels of images that have a file a channel; names of cases go without them.

    Raises:
        DataError: two images that no name tells apart, or a result in the place of an image or another result.
    """
    from medsegdiff.data.inputs import unique_names

    files = [[image] if isinstance(image, Path) else list(image) for image in images]
    names = unique_names([first for first, *_ in files], modalities)
    cases = [
        Case(name, first, folder, tuple(kinds), tuple(others))
        for name, (first, *others) in zip(names, files, strict=True)
    ]
    taken = {file.resolve(): f"the input {file}" for case in cases for file in case.files}
    for case in cases:
        result = f"a result of {case.path}"
        for path in case.output_paths().values():
            owner = taken.setdefault(path.resolve(), result)
            if owner != result:
                msg = f"{result} would replace {owner}; name another --output folder, or rename an input"
                raise DataError(msg)
    return cases


def segment_case(predictor: BundlePredictor, case: Case) -> dict[str, Any]:
    """Segment one case and write its results: all of them, or none.

    Returns:
        "status" "done" with "outputs" (names of files by kind), "volumes", "steps" (those of each group of draws) and
        "stage_seconds", or, where a user can mend what went wrong, "status" "failed" with "error" on one line. Done
        again, it gives the same files.
    """
    from medsegdiff.data.writer import write_images

    try:
        result = predictor.predict(case.files if case.others else case.path)
        started = time.perf_counter()
        maps = {kind: channels for kind in case.kinds if (channels := _channels(result, kind)) is not None}
        paths = {kind: path for kind, path in case.output_paths().items() if kind in maps}
        write_images({path: maps[kind] for kind, path in paths.items()}, affine=result.affine, like=case.path)
    except MedSegDiffError as error:
        return {"status": "failed", "error": one_line(error)}
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        hint = "try --device cpu, --amp bf16, fewer --draws, fewer --workers, or a machine with more of it"
        return {"status": "failed", "error": f"{case.path}: the memory does not suffice for this image; {hint}"}
    seconds = result.stage_seconds | {"write": time.perf_counter() - started}
    return {
        "status": "done",
        "outputs": {kind: path.name for kind, path in paths.items()},
        "volumes": _volumes(result, predictor.class_names, picture=paths["label"].suffix == ".png"),
        "steps": list(result.steps),
        "stage_seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


def _channels(result: CasePrediction, kind: str) -> Any:
    """A result as channels (*S), or None for what a single draw has not."""
    if kind == "probabilities":
        return result.class_maps
    array = getattr(result, kind)
    return None if array is None else array[None]


def _volumes(result: CasePrediction, class_names: Sequence[str], *, picture: bool) -> dict[str, dict[str, Any]]:
    """Voxels of each class but the background, and millilitres where voxels have a size."""
    import numpy as np

    counts = np.bincount(result.label.ravel(), minlength=len(class_names))
    ml = abs(float(np.linalg.det(result.affine[:3, :3]))) / 1000
    return {
        name: {"voxels": int(count)} | ({} if picture else {"ml": round(int(count) * ml, 4)})
        for name, count in zip(class_names[1:], counts[1:], strict=True)
    }


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "not enough memory" in str(error)
