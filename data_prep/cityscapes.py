"""Cityscapes, one object a picture: crops of the instances of one class with binary masks, as SegDiff uses them.

    python -m data_prep.cityscapes SOURCE --output DIR --category bus [--protocol tight]

SOURCE is a folder, or an archive of one, with `leftImg8bit/{train,val}/CITY/*_leftImg8bit.png` and
`gtFine/{train,val}/CITY/*_gtFine_polygons.json`. Objects are those of the polygons: what later polygons cover does not
belong to them, groups ("busgroup") are left out, and so are objects of which fewer than --min-pixels are seen. The
papers take objects from the annotations of Polygon-RNN++, which can no longer be had: numbers of crops may differ.

  `--protocol expansion` (default): the box around what is seen of the object, 15 % wider and higher; of training crops
    10 % to 20 %, drawn once for each.
  `--protocol tight`: the box itself.
Crops keep their size. `train` without Weimar and Zurich is the training part, these two cities are the validation part
(Castrejón et al., CVPR 2017), and `val` is the test part. Folds keep the crops of a picture together.

Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016; https://www.cityscapes-dataset.com.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.conversion import About, Conversion, Misfit
from data_prep.folders import files_below
from data_prep.picture_sets import Case, Found, convert_pictures
from data_prep.pictures import Picture, Pixels, fill_polygon, load_image
from data_prep.settings import Settings, SplitSettings, command_parser, run_command
from data_prep.splits import Splits, default_splits
from medsegdiff.errors import DataError, SpecError, one_line

CATEGORIES = ("bicycle", "bus", "person", "train", "truck", "motorcycle", "car", "rider")
PROTOCOLS = ("expansion", "tight")
EXPANSION, TRAINING_EXPANSION = 0.15, (0.10, 0.20)
VALIDATION_CITIES = ("weimar", "zurich")
PARTS_OF_FOLDERS = {"train": "training", "val": "test"}
POLYGONS, IMAGE = "_gtFine_polygons.json", "_leftImg8bit.png"
DEFAULTS = Settings(channels=3)
# Between the name of a picture and the number of an object in it.
OBJECT = "_object"

Outline = list[tuple[float, float]]


@dataclass(frozen=True)
class Scene:
    """One annotated picture.

    Attributes:
        name: city and numbers, such as `aachen_000000_000019`.
        image: path of the picture.
        annotation: path of its polygons.
        part: "training", "validation" or "test".
    """

    name: str
    image: Path
    annotation: Path
    part: str


def convert(
    source: str | Path,
    output: str | Path,
    *,
    category: str,
    protocol: str = "expansion",
    min_pixels: int = 1,
    settings: Settings = DEFAULTS,
) -> Conversion:
    """Convert the objects of one class; other arguments and errors as `convert_pictures`.

    Args:
        source: folder or archive.
        output: new or empty folder.
        category: one of `CATEGORIES`.
        protocol: "expansion" or "tight".
        min_pixels: objects of which less is seen are left out.
        settings: what the user chose.

    Raises:
        SpecError: no such category or protocol.
    """
    for name, given, allowed in (("category", category, CATEGORIES), ("protocol", protocol, PROTOCOLS)):
        if given not in allowed:
            msg = f"got {name}={given!r}; allowed are {', '.join(allowed)}; give one of these"
            raise SpecError(msg)
    about = About(
        name=f"cityscapes_{category}_{protocol}",
        description=f"One {category} a picture, {protocol} crops",
        reference="The Cityscapes dataset, Cordts et al. 2016",
        licence="as https://www.cityscapes-dataset.com/license states: no commercial use",
        modalities=("photograph, grey",),
        classes=("background", category),
    )
    find = partial(_find, category=category, protocol=protocol, min_pixels=min_pixels, settings=settings)
    return convert_pictures(source, output, about=about, find=find, settings=settings, split=_splits)


def read_objects(path: Path) -> tuple[tuple[int, int], list[tuple[str, Outline]]]:
    """Width and height of an annotated picture, and label and outline of its objects, those in front last.

    Raises:
        DataError: no annotation of Cityscapes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        objects = [
            (str(entry["label"]), [(float(x), float(y)) for x, y in entry["polygon"]])
            for entry in content["objects"]
            if not entry.get("deleted") and len(entry["polygon"]) > 2
        ]
        return (int(content["imgWidth"]), int(content["imgHeight"])), objects
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{path}: cannot be read as polygons ({type(error).__name__}: {error}); allowed is the JSON of gtFine, the "
            "size of the picture and objects with label and polygon; download it again"
        )
        raise DataError(msg) from error


def visible_objects(outlines: Sequence[Outline], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Paint outlines in their order; returns (width, height) of the number of the one seen at each pixel, from 1."""
    canvas = Image.new("I", shape)
    for number, outline in enumerate(outlines, start=1):
        fill_polygon(canvas, outline, number)
    return np.asarray(canvas).T


def crop_box(mask: NDArray[np.bool_], expansion: float) -> tuple[slice, slice]:
    """The box around a mask that is not empty, made wider and higher by a share of its sides, within the picture.

    Args:
        mask: (width, height).
        expansion: 0.15 adds 7.5 % of a side at each of its ends, and up to the next whole pixel.
    """
    spans = []
    for axis, length in enumerate(mask.shape):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        start, stop = int(places[0]), int(places[-1]) + 1
        margin = expansion * (stop - start) / 2
        spans.append(slice(max(0, math.floor(start - margin)), min(length, math.ceil(stop + margin))))
    return spans[0], spans[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = command_parser("cityscapes", __doc__, DEFAULTS)
    parser.add_argument("--category", required=True, choices=CATEGORIES, help="the class of the objects")
    parser.add_argument("--protocol", default="expansion", choices=PROTOCOLS, help="crops (default: %(default)s)")
    parser.add_argument("--min-pixels", type=int, default=1, help="of an object to be seen (default: %(default)s)")
    return run_command(convert, parser, arguments)


def _find(root: Path, *, category: str, protocol: str, min_pixels: int, settings: Settings) -> Found:
    files = files_below(root)
    images = {path.name: path for path in files if path.name.endswith(IMAGE)}
    cases, misfits = [], []
    for path in files:
        part = _part(path.relative_to(root)) if path.name.endswith(POLYGONS) else None
        if part is None:  # no annotation, or one of the official test part, which has no objects
            continue
        name = path.name.removesuffix(POLYGONS)
        image = images.get(f"{name}{IMAGE}")
        if image is None:
            misfits.append(Misfit(name, f"{path.relative_to(root).as_posix()}: polygons without {name}{IMAGE}"))
            continue
        try:
            _, objects = read_objects(path)
        except DataError as error:
            misfits.append(Misfit(name, one_line(error).replace(f"{root}{os.sep}", "")))
            continue
        scene = Scene(name, image, path, part)
        for number, (label, _) in enumerate(objects, start=1):
            if label == category:
                load = partial(_crop, scene, number, protocol=protocol, min_pixels=min_pixels, settings=settings)
                cases.append(Case(f"{name}{OBJECT}{number:03}", load, part))
    return Found(cases, tuple(misfits))


def _part(relative: Path) -> str | None:
    part = next((PARTS_OF_FOLDERS[folder] for folder in relative.parts[:-1] if folder in PARTS_OF_FOLDERS), None)
    return "validation" if part == "training" and relative.name.startswith(VALIDATION_CITIES) else part


def _crop(scene: Scene, number: int, *, protocol: str, min_pixels: int, settings: Settings) -> Picture:
    image, remarks, seen = _load_scene(scene, settings)
    mask = seen == number
    pixels = int(np.count_nonzero(mask))
    if pixels < max(1, min_pixels):
        msg = (
            f"{scene.annotation}: got object {number} of which {pixels} pixels are seen; allowed are "
            f"{max(1, min_pixels)} or more; it is left out"
        )
        raise DataError(msg)
    box = crop_box(mask, 0.0 if protocol == "tight" else _expansion(scene, number, seed=settings.seed))
    return Picture(image[box], mask[box].astype(np.uint8), remarks)


@lru_cache(maxsize=1)
def _load_scene(scene: Scene, settings: Settings) -> tuple[Pixels, tuple[str, ...], NDArray[np.int32]]:
    """Picture, remarks and numbers of objects; kept for the next crop, which mostly is of the same picture."""
    image, remarks = load_image(
        scene.image, channels=settings.channels, average=settings.average, rescale=settings.rescale
    )
    shape, objects = read_objects(scene.annotation)
    if shape != image.shape[:2]:
        msg = (
            f"{scene.annotation}: got polygons for {shape[0]} x {shape[1]} pixels where {scene.image} has "
            f"{image.shape[0]} x {image.shape[1]}; allowed is one and the same size; pair the right files"
        )
        raise DataError(msg)
    return image, remarks, visible_objects([outline for _, outline in objects], shape)


def _expansion(scene: Scene, number: int, *, seed: int) -> float:
    if scene.part != "training":
        return EXPANSION
    least, greatest = TRAINING_EXPANSION
    digest = hashlib.sha256(f"{seed}/{scene.name}/{number}".encode()).digest()
    return least + (greatest - least) * int.from_bytes(digest[:8], "big") / 2**64


def _splits(parts: Mapping[str, str | None], settings: SplitSettings) -> Splits:
    """The default splits of pictures: the crops of one stay together."""
    crops: dict[str, list[str]] = {}
    for case in parts:
        crops.setdefault(case.rpartition(OBJECT)[0], []).append(case)
    splits = default_splits({picture: parts[cases[0]] for picture, cases in crops.items()}, settings)

    def of_crops(pictures: Sequence[str]) -> list[str]:
        return [case for picture in pictures for case in crops[picture]]

    return Splits(
        split=splits.split and {part: of_crops(pictures) for part, pictures in splits.split.items()},
        folds=splits.folds and [of_crops(pictures) for pictures in splits.folds],
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
