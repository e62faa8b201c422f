"""One case of a cohort: the image to segment, and the results that are written for it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.errors import DataError, MedSegDiffError, SpecError, one_line

if TYPE_CHECKING:
    from medsegdiff.data.modalities import Modalities
    from medsegdiff.inferers.predictor import BundlePredictor, CasePrediction


NIFTI, DICOM_SEG = OUTPUT_FORMATS = ("nifti", "dicom-seg")
PICTURES = frozenset({"picture", "page"})
"""Kinds of results that are for people to look at."""


@dataclass(frozen=True)
class Case:
    """An image to segment.

    Attributes:
        name: unique in its cohort; its results are called after it.
        path: an image file, or a folder of one DICOM series.
        folder: where results go.
        kinds: what is written: "label", and any of "probabilities", "entropy", "variance", "picture" (key slices, a
            PNG) and "page" (HTML to look through, which holds the picture).
        others: the files of the further channels, of an image that has a file a channel.
        output_format: of the label map, one of `OUTPUT_FORMATS`.
    """

    name: str
    path: Path
    folder: Path
    kinds: tuple[str, ...] = ("label",)
    others: tuple[Path, ...] = ()
    output_format: str = NIFTI

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the image, in the order of its channels."""
        return (self.path, *self.others)

    @property
    def is_picture(self) -> bool:
        """Whether the image is one such as PNG, without a place in a patient."""
        from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix

        return image_suffix(self.path) in PICTURE_SUFFIXES

    def output_paths(self) -> dict[str, Path]:
        """The file of each kind; which are there in the end depends on the network, too."""
        label, other = (".png", ".tif") if self.is_picture else (".nii.gz", ".nii.gz")
        if self.output_format == DICOM_SEG:
            label = ".dcm"
        own = {"label": label, "picture": "_picture.png", "page": "_page.html"}
        suffixes = {kind: own.get(kind, f"_{kind}{other}") for kind in self.kinds}
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
    output_format: str = NIFTI,
) -> list[Case]:
    """A case for each image, once it is known that no result would replace an image or another result.

    Args:
        images: the file of each, or its files in the order of the channels.
        folder: where results go.
        kinds: what is written, see `Case`.
        modalities: names of the channels of images that have a file a channel; names of cases go without them.
        output_format: of the label maps, one of `OUTPUT_FORMATS`.

    Raises:
        DataError: two images that no name tells apart, or a result in the place of an image or another result.
    """
    from medsegdiff.data.inputs import unique_names

    files = [[image] if isinstance(image, Path) else list(image) for image in images]
    names = unique_names([first for first, *_ in files], modalities)
    cases = [
        Case(name, first, folder, tuple(kinds), tuple(others), output_format)
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
        again, it gives the same files, but for the UIDs and times of a DICOM-SEG and the date on pictures and pages.
    """
    from medsegdiff.data.bundle_metadata import bundle_name, read_metadata
    from medsegdiff.data.writer import write_images
    from medsegdiff.notice import short_notice

    try:
        segmentation = _Segmentation(predictor, case) if case.output_format == DICOM_SEG else None
        result = predictor.predict(case.files if case.others else case.path)
        started = time.perf_counter()
        maps = {kind: channels for kind in case.kinds if (channels := _channels(result, kind)) is not None}
        pictures = _pictures(predictor, case, result) if PICTURES & set(case.kinds) else {}
        paths = {kind: path for kind, path in case.output_paths().items() if kind in maps or kind in pictures}
        others: dict[Path, Callable[[Path], None]] = {
            paths[kind]: functools.partial(_write_bytes, content) for kind, content in pictures.items()
        }
        others |= {} if segmentation is None else {paths["label"]: segmentation.writer(result)}
        images = {path: maps[kind] for kind, path in paths.items() if path not in others}
        name = bundle_name(predictor.bundle_dir, read_metadata(predictor.bundle_dir))
        write_images(images, affine=result.affine, like=case.path, others=others, description=short_notice(name))
    except SpecError as error:  # of the settings, such as memory: it does not say which image they do not suffice for
        return {"status": "failed", "error": f"{case.path}: {one_line(error)}"}
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
        "volumes": _volumes(result, predictor.class_names, picture=case.is_picture),
        "steps": list(result.steps),
        "stage_seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


class _Segmentation:
    """What a DICOM-SEG says beside the label map; made before the case is segmented, as not every case can have one."""

    def __init__(self, predictor: BundlePredictor, case: Case) -> None:
        from medsegdiff.data.bundle_metadata import bundle_name, read_metadata
        from medsegdiff.data.dicom.segmentation import Producer
        from medsegdiff.data.dicom.segments import bundle_segments
        from medsegdiff.data.dicom.source import read_source

        metadata = read_metadata(predictor.bundle_dir)
        self.source = read_source(case.path)
        self.segments = bundle_segments(metadata, predictor.class_names)
        self.producer = Producer(
            name=bundle_name(predictor.bundle_dir, metadata),
            version=str(metadata.get("version") or "unknown"),
            parameters=_parameters(predictor.settings),
        )

    def writer(self, result: CasePrediction) -> Callable[[Path], None]:
        """What writes the label map of a result to a path."""
        from medsegdiff.data.dicom.segmentation import write_segmentation

        return functools.partial(
            write_segmentation,
            result.label,
            source=self.source,
            segments=self.segments,
            producer=self.producer,
        )


def _parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """How a network segments, one word a setting; paths are left out, which may name a person."""
    facts = {key: value for key, value in settings.items() if key not in ("members", "device")}
    for number, member in enumerate(settings["members"], start=1):
        prefix = f"member {number} " if len(settings["members"]) > 1 else ""
        facts |= {f"{prefix}{key}": value for key, value in member.items() if key != "weights"}
    return {key: str(value) for key, value in facts.items()}


def _pictures(predictor: BundlePredictor, case: Case, result: CasePrediction) -> dict[str, bytes]:
    """The contents of the files that show a result to people."""
    from medsegdiff.data.bundle_metadata import read_metadata
    from medsegdiff.data.dicom.segments import bundle_segments
    from medsegdiff.notice import RESEARCH_ONLY
    from medsegdiff.view.facts import case_facts
    from medsegdiff.view.key_slices import key_slices
    from medsegdiff.view.page import case_page
    from medsegdiff.view.shown_case import ShownClass, show_case

    segments = bundle_segments(read_metadata(predictor.bundle_dir), predictor.class_names)
    amounts = _volumes(result, predictor.class_names, picture=case.is_picture)
    shown = show_case(
        case.name,
        case.files,
        result.label,
        result.entropy,
        affine=result.affine,
        classes=[
            ShownClass(one.label, one.rgb, amounts[one.label]["voxels"], amounts[one.label].get("ml"))
            for one in segments
        ],
        facts=case_facts(predictor.model, predictor.settings, result.steps),
    )
    picture = key_slices(shown, description=RESEARCH_ONLY)
    contents = {"picture": picture}
    if "page" in case.kinds:
        contents["page"] = case_page(shown, picture).encode()
    return {kind: content for kind, content in contents.items() if kind in case.kinds}


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _channels(result: CasePrediction, kind: str) -> Any:
    """A result as channels (*S), or None for what a single draw has not."""
    if kind in PICTURES:
        return None
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
