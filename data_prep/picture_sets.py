"""From the cases of a published 2-D data set to a checked folder in the manner of the Decathlon; what all share."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_prep.folders import appearing_at_once, extract_archive
from data_prep.hippocampus import IMAGES, LABELS, MISFITS_FILE, Conversion, Misfit
from data_prep.pairing import Files, Pairs
from data_prep.picture_splits import SplitRule, default_splits, write_splits
from data_prep.pictures import Picture, Pixels, as_pillow, check_same_size, load_image, load_mask, resized
from data_prep.settings import Settings
from medsegdiff.data.datalist import DATASET_FILE
from medsegdiff.data.integrity import check_pair
from medsegdiff.data.splits import PARTS, write_json
from medsegdiff.errors import DataError, one_line

logger = logging.getLogger(__name__)

# Hidden, in the folder that is to appear: gone with it whatever happens.
_EXTRACTED = ".extracted"
_COMPRESSION = 3  # of 9: beyond, photographs hardly shrink, at twice the time


@dataclass(frozen=True, kw_only=True)
class About:
    """What `dataset.json` says of a data set.

    Attributes:
        name: also begins the names of its split files.
        description: one line.
        reference: who made it.
        licence: of the data.
        modality: of grey images; colour images have one entry a channel.
        classes: names, background first.
    """

    name: str
    description: str
    reference: str
    licence: str
    modality: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One image with its label, read when it is its turn.

    Attributes:
        name: what the files will be called.
        load: reads it; a `DataError` makes it a misfit.
        part: "training", "validation" or "test" where the publication says so.
    """

    name: str
    load: Callable[[], Picture]
    part: str | None = None


@dataclass(frozen=True)
class Found:
    """The cases of a source, and what is no case."""

    cases: Sequence[Case]
    misfits: tuple[Misfit, ...] = ()


@dataclass(frozen=True)
class PictureConversion(Conversion):
    """A `Conversion`, and what was changed in the cases that were kept."""

    remarks: tuple[Misfit, ...] = ()


def convert_pictures(
    source: str | Path,
    output: str | Path,
    *,
    about: About,
    find: Callable[[Path], Found],
    settings: Settings,
    split: SplitRule = default_splits,
    image_filter: str = "bilinear",
    mask_filter: str = "nearest",
) -> PictureConversion:
    """Write the sound cases of a source as pairs of PNG files, with `dataset.json`, `splits/` and `misfits.json`.

    Args:
        source: folder, or archive (tar, tar.gz, zip).
        output: a folder that is empty or does not exist; it appears complete or not at all.
        about: the data set.
        find: lists the cases of a folder.
        settings: what the user chose.
        split: which case belongs to which part.
        image_filter: for `settings.size`, see `resized`.
        mask_filter: likewise.

    Raises:
        DataError: a source that is missing, no archive or without any sound case; an output that cannot be written.
    """
    source, output = Path(source).absolute(), Path(output)
    if not source.exists():
        msg = (
            f"{source}: there is no such file or folder; give the published archive or the folder that comes out of it"
        )
        raise DataError(msg)
    resize = partial(resized, image_filter=image_filter, mask_filter=mask_filter)
    with appearing_at_once(output) as draft:
        root = source
        if not source.is_dir():
            root = draft / _EXTRACTED
            extract_archive(source, root)
        found = find(root)
        kept, misfits, remarks = _write_cases(
            found, draft, root=root, num_classes=len(about.classes), settings=settings, resize=resize
        )
        shutil.rmtree(draft / _EXTRACTED, ignore_errors=True)
        if not kept:
            first = f", for instance {misfits[0].case}: {misfits[0].reason}" if misfits else ""
            msg = (
                f"{source}: got no sound pair and {len(misfits)} misfits{first}; allowed is the layout that --help "
                "describes; check the source"
            )
            raise DataError(msg)
        splits = split(kept, settings)
        entries = write_splits(draft / "splits", about.name, splits, seed=settings.seed)
        _write_dataset(draft, about, list(kept), channels=settings.channels, splits=entries)
        notes = {"misfits": [asdict(entry) for entry in misfits], "remarks": [asdict(entry) for entry in remarks]}
        write_json(draft / MISFITS_FILE, notes)
    return PictureConversion(
        tuple(kept), tuple(misfits), splits.split or {part: [] for part in PARTS}, remarks=tuple(remarks)
    )


def pair_cases(
    pairs: Pairs,
    settings: Settings,
    *,
    load_label: Callable[[Files, Pixels], tuple[Pixels, tuple[str, ...]]] | None = None,
) -> Found:
    """The cases of pairs of files.

    Args:
        pairs: what belongs together.
        settings: how images are read.
        load_label: makes label and remarks from the files and the image, where the label is no plain binary mask.
    """

    def load(files: Files) -> Picture:
        image, remarks = load_image(
            files.image, channels=settings.channels, average=settings.average, rescale=settings.rescale
        )
        label, more = load_label(files, image) if load_label else load_mask(files.masks)
        check_same_size(files.image, image, files.masks[0], label)
        return Picture(image, label, remarks + more)

    return Found([Case(files.case, partial(load, files), files.part) for files in pairs.cases], pairs.misfits)


def _write_cases(
    found: Found,
    draft: Path,
    *,
    root: Path,
    num_classes: int,
    settings: Settings,
    resize: Callable[[Picture, int], Picture],
) -> tuple[dict[str, str | None], list[Misfit], list[Misfit]]:
    """Write what is sound; returns the part of each case that was kept, misfits and remarks."""
    kept: dict[str, str | None] = {}
    misfits, remarks = list(found.misfits), []
    (draft / IMAGES).mkdir()
    (draft / LABELS).mkdir()
    with logging_redirect_tqdm():
        for case in tqdm(found.cases, desc="writing pairs", unit="pair", disable=None):
            image, label = (draft / folder / f"{case.name}.png" for folder in (IMAGES, LABELS))
            try:
                picture = case.load()
                picture = resize(picture, settings.size) if settings.size else picture
                as_pillow(picture.image).save(image, compress_level=_COMPRESSION)
                as_pillow(picture.label).save(label, compress_level=_COMPRESSION)
                check_pair(image, label, num_classes=num_classes, spatial_dims=2, channels=settings.channels)
            except DataError as error:
                misfits.append(Misfit(case.name, _without_folders(one_line(error), root, draft)))
                image.unlink(missing_ok=True)
                label.unlink(missing_ok=True)
                continue
            kept[case.name] = case.part
            for text in picture.remarks:
                remarks.append(Misfit(case.name, _without_folders(text, root, draft)))
                logger.warning("%s", remarks[-1].reason)
    return dict(sorted(kept.items())), sorted(misfits, key=lambda misfit: misfit.case), remarks


def _without_folders(text: str, *folders: Path) -> str:
    """Paths in the source's own terms: those of drafts and of extracted archives are gone afterwards."""
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def _write_dataset(
    folder: Path, about: About, cases: Sequence[str], *, channels: int, splits: Mapping[str, str]
) -> None:
    modality = [about.modality] if channels == 1 else ["red", "green", "blue"]
    content: dict[str, Any] = {
        "name": about.name,
        "description": about.description,
        "reference": about.reference,
        "licence": about.licence,
        "tensorImageSize": "2D",
        "modality": {str(channel): name for channel, name in enumerate(modality)},
        "labels": {str(value): name for value, name in enumerate(about.classes)},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./{IMAGES}/{case}.png", "label": f"./{LABELS}/{case}.png"} for case in cases],
        "test": [],
        "splits": dict(splits),
    }
    write_json(folder / DATASET_FILE, content)
