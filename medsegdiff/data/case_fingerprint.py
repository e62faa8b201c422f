"""What one case of a data set is like, measured in one reading of its files."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsegdiff.data.case_files import CaseFile, Expected, read_channels, read_file
from medsegdiff.data.integrity import ImageFacts, check_same_grid, count_classes
from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix
from medsegdiff.data.remarks import Remark, Remarks

PERCENTILES = (0.0, 0.5, 5.0, 50.0, 95.0, 99.5, 100.0)
"""Levels in percent; 0 and 100 are the smallest and the largest value."""

# How far the cosine between two axes may be from 0: 0.06 degrees, far above the rounding of headers.
_ORTHOGONAL_TOLERANCE = 1e-3
# Where classes are not known beforehand: what a label map of this package can hold.
_MOST_CLASSES = 2**16


@dataclass(frozen=True)
class ClassFacts:
    """One class in one label.

    Attributes:
        voxels: how many, at least 1.
        volume: in mm³, or in mm² for planes, or in pixels for pictures.
        components: number of connected parts; voxels are connected by faces, edges and corners.
        at_border: whether it touches the border of the grid.
    """

    voxels: int
    volume: float
    components: int
    at_border: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseFingerprint:
    """What is known about one case; what could not be measured is empty.

    Attributes:
        case: its name.
        remarks: what is wrong with it.
        image: facts of the image.
        orientation: where the axes point, such as "RAS"; empty for pictures.
        content: a hash of the image's numbers, the same whatever the format and type they are stored in.
        percentiles: of the intensities (channels, levels), at `PERCENTILES`.
        voxels: intensities of randomly chosen voxels (channels, samples).
        foreground: intensities of randomly chosen voxels of the foreground (channels, samples).
        classes: of the foreground, by their values in the label; only what is there.
    """

    case: str
    remarks: tuple[Remark, ...] = ()
    image: ImageFacts | None = None
    orientation: str = ""
    content: str = ""
    percentiles: NDArray[np.float64] | None = field(default=None, repr=False)
    voxels: NDArray[np.float32] | None = field(default=None, repr=False)
    foreground: NDArray[np.float32] | None = field(default=None, repr=False)
    classes: dict[int, ClassFacts] = field(default_factory=dict)


def measure_case(item: Mapping[str, Any], *, expected: Expected, samples: int) -> CaseFingerprint:
    """Measure one case and find everything that is wrong with it.

    Args:
        item: {"image": path or paths, "label": path, "case": name}.
        expected: what it should be like.
        samples: how many voxels to keep of the image, and of the foreground.
    """
    remarks = Remarks(str(item["case"]))
    given = item["image"]
    images = read_channels(given if isinstance(given, list) else [given], expected, remarks)
    label = read_file(item["label"], expected.spatial_dims, 1, remarks)
    classes: dict[int, ClassFacts] = {}
    mask = None
    if label is not None and label.finite:
        with remarks.errors():
            counts = count_classes(label.facts.path, label.array, len(expected.class_names) or _MOST_CLASSES)
            values = np.rint(label.array).astype(np.uint16).reshape(label.facts.shape)
            classes = _class_facts(values, counts, label.facts)
            mask = values > 0
    if not images:
        return CaseFingerprint(case=remarks.case, remarks=tuple(remarks), classes=classes)
    same_grid = False
    if label is not None and label.sound_grid and images[0].sound_grid:
        with remarks.errors():
            check_same_grid(images[0].facts, label.facts)
            same_grid = True
    finite = all(image.finite for image in images)
    channels = [channel for image in images for channel in image.channels()]
    first = images[0].facts
    is_picture = image_suffix(first.path) in PICTURE_SUFFIXES
    fingerprint = CaseFingerprint(
        case=remarks.case,
        image=replace(first, channels=len(channels)),
        orientation="" if is_picture or not images[0].sound_grid else _orientation(images[0], remarks),
        content=_content(channels),
        classes=classes,
    )
    if finite:
        rng = np.random.default_rng(zlib.crc32(remarks.case.encode()))
        percentiles = np.stack([np.percentile(channel, PERCENTILES) for channel in channels])
        _note_constant_channels(percentiles, remarks)
        fingerprint = replace(
            fingerprint,
            percentiles=percentiles,
            voxels=_sample(channels, None, samples, rng),
            foreground=_sample(channels, mask, samples, rng) if same_grid and mask is not None else None,
        )
    return replace(fingerprint, remarks=tuple(remarks))


def _class_facts(values: NDArray[np.uint16], counts: Sequence[int], facts: ImageFacts) -> dict[int, ClassFacts]:
    """Facts of each class of the foreground that is there, in the memory of the box around one class."""
    voxel = float(np.prod(facts.spacing))
    connected = ndimage.generate_binary_structure(values.ndim, values.ndim)
    found = {}
    for value, box in enumerate(ndimage.find_objects(values), start=1):
        if box is None:
            continue
        touches = [
            size > 1 and (cut.start == 0 or cut.stop == size) for cut, size in zip(box, values.shape, strict=True)
        ]
        _, components = ndimage.label(values[box] == value, structure=connected)
        found[value] = ClassFacts(counts[value], counts[value] * voxel, int(components), any(touches))
    return found


def _orientation(file: CaseFile, remarks: Remarks) -> str:
    axes = file.facts.affine[:3, :3] / np.linalg.norm(file.facts.affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > _ORTHOGONAL_TOLERANCE:
        angle = 90 - np.degrees(np.arcsin(min(cosine, 1.0)))
        remarks.add(
            "warning",
            f"{file.facts.path}: got axes at {angle:.3g}° to each other; expected are right angles, on which some "
            "programs insist: resample it onto a rectangular grid",
        )
    return "".join(str(code) for code in nibabel.aff2axcodes(file.facts.affine)[: len(file.facts.shape)])


def _content(channels: Sequence[NDArray[Any]]) -> str:
    """A hash of all numbers, taken slice by slice so that no second volume is needed."""
    digest = hashlib.blake2b(digest_size=16)
    for channel in channels:
        digest.update(str(channel.shape).encode())
        for k in range(channel.shape[-1]):
            digest.update(np.ascontiguousarray(channel[..., k], dtype=np.float32).data)
    return digest.hexdigest()


def _note_constant_channels(percentiles: NDArray[np.float64], remarks: Remarks) -> None:
    constant = percentiles[:, 0] == percentiles[:, -1]
    if constant.all():
        return
    for channel in np.flatnonzero(constant):
        remarks.add(
            "warning", f"channel {channel} of {len(constant)} has the value {percentiles[channel, 0]:g} everywhere"
        )


def _sample(
    channels: Sequence[NDArray[Any]], mask: NDArray[np.bool_] | None, samples: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Intensities (channels, samples) of voxels drawn with replacement, so that every case weighs the same."""
    inside = None if mask is None else np.flatnonzero(mask)
    chosen = rng.integers(channels[0].size if inside is None else len(inside), size=samples)
    places = np.unravel_index(chosen if inside is None else inside[chosen], channels[0].shape)
    return np.stack([channel[places] for channel in channels]).astype(np.float32)
