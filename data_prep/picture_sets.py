"""From the cases of a published 2-D data set to a checked folder in the manner of the Decathlon; what all share."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_prep.conversion import (
    IMAGES,
    LABELS,
    About,
    Account,
    Conversion,
    Misfit,
    describe,
    existing_source,
    in_own_terms,
)
from data_prep.folders import appearing_at_once, extract_archive
from data_prep.pairing import Files, Pairs
from data_prep.pictures import Picture, Pixels, as_pillow, check_same_size, load_image, load_mask, resized
from data_prep.settings import Settings
from data_prep.splits import SplitRule, default_splits
from medsegdiff.data.integrity import check_pair
from medsegdiff.errors import DataError, one_line

logger = logging.getLogger(__name__)

# The files of a case and its image -> its label and remarks.
LoadLabel = Callable[[Files, Pixels], tuple[Pixels, tuple[str, ...]]]

# Hidden, in the folder that is to appear: gone with it whatever happens.
_EXTRACTED = ".extracted"
_COMPRESSION = 3  # of 9: beyond, photographs hardly shrink, at twice the time


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
) -> Conversion:
    """Write the sound cases of a source as pairs of PNG files, with `dataset.json`, `splits/` and `misfits.json`.

    Args:
        source: folder, or archive (tar, tar.gz, zip).
        output: a folder that is empty or does not exist; it appears complete or not at all.
        about: the data set; its modality is that of grey images, colours have one entry a channel.
        find: lists the cases of a folder.
        settings: what the user chose.
        split: which case belongs to which part.
        image_filter: for `settings.size`, see `resized`.
        mask_filter: likewise.

    Raises:
        DataError: a source that is missing, no archive or without any sound case; an output that cannot be written.
    """
    source, output = existing_source(source), Path(output)
    if settings.channels > 1:
        about = replace(about, modalities=("red", "green", "blue"))
    resize = partial(resized, image_filter=image_filter, mask_filter=mask_filter)
    with appearing_at_once(output) as draft:
        root = source
        if not source.is_dir():
            root = draft / _EXTRACTED
            extract_archive(source, root)
        found = find(root)
        parts = {case.name: case.part for case in found.cases}
        kept, account = _write_cases(
            found, draft, root=root, num_classes=len(about.classes), settings=settings, resize=resize
        )
        shutil.rmtree(draft / _EXTRACTED, ignore_errors=True)
        items = {case: {"image": f"./{IMAGES}/{case}.png", "label": f"./{LABELS}/{case}.png"} for case in kept}
        return describe(
            draft,
            about,
            items,
            spatial_dims=2,
            parts=parts,
            split=split,
            settings=settings,
            account=account,
            source=source,
        )


def convert_pairs(
    source: str | Path,
    output: str | Path,
    *,
    pairs: Callable[[Path], Pairs],
    settings: Settings,
    load_label: LoadLabel | None = None,
    **options: Any,
) -> Conversion:
    """Convert a source whose cases are an image with masks; other arguments and errors as `convert_pictures`.

    Args:
        source: folder or archive.
        output: new or empty folder.
        pairs: lists which files of a folder belong together.
        settings: what the user chose.
        load_label: see `pair_cases`.
        options: of `convert_pictures`.
    """

    def find(root: Path) -> Found:
        return pair_cases(pairs(root), settings, load_label=load_label)

    return convert_pictures(source, output, find=find, settings=settings, **options)


def pair_cases(pairs: Pairs, settings: Settings, *, load_label: LoadLabel | None = None) -> Found:
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
) -> tuple[list[str], Account]:
    """Write what is sound; returns the names of the cases that were kept, and what there is to say of the others."""
    kept, misfits, remarks = [], list(found.misfits), []
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
                misfits.append(Misfit(case.name, in_own_terms(one_line(error), root, draft)))
                image.unlink(missing_ok=True)
                label.unlink(missing_ok=True)
                continue
            kept.append(case.name)
            for text in picture.remarks:
                remarks.append(Misfit(case.name, in_own_terms(text, root, draft)))
                logger.warning("%s", remarks[-1].reason)
    return kept, Account(misfits=misfits, remarks=remarks)
