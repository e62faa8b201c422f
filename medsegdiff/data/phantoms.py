"""Generated images with labels: a task's channels, classes and geometry without its data.

A phantom holds one or more elongated, bent bodies, each cut across into two touching classes (as the hippocampus is
cut into head and body), in tissue of three kinds. Without `contrast`, bodies have the mean intensity and the spread
of the commonest of the other structures, so that no threshold finds them: what tells them is place, shape and the
direction of a fine texture. A smooth bias field, noise, and a scale and offset of each image's own come on top.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter

import medsegdiff
from medsegdiff.errors import DataError, SpecError

SMALLEST_SIDE = 16
SHAPE_SPREAD = 0.15

# To be raised whenever `make_phantom` or the layout of the folder changes: cached folders of the old recipe are left.
_RECIPE = 1

# Long and short radii of a body as shares of half its cell; a flat cell is filled sooner than a solid one.
_RADII = {2: (0.5, 0.26), 3: (0.6, 0.42)}
_FLUID, _GREY, _WHITE = 0.0, 0.55, 1.0
_FLUID_SHARE, _GREY_SHARE = 0.15, 0.30
_TEXTURE_SPREAD = 0.11
_TEXTURE_PERIOD = 4.0
_NOISE_SPREAD = 0.06


@dataclass(frozen=True, kw_only=True)
class PhantomSpec:
    """What the phantoms of a task look like from outside.

    Args:
        shape: voxels along each axis, two or three axes, at least 16 each; cases of a folder vary around it.
        spacing: millimetres between voxels along each axis.
        num_classes: number of classes, background included.
        in_channels: number of image channels.
        name: name of the data set, a prefix of its file names.
        class_names: names of the foreground classes, for `dataset.json`; empty means "class 1", "class 2", ….
        contrast: by how much of the distance from fluid (0) to white matter (1) bodies are brighter than the other
            grey structures, -0.5 to 0.5; 0 makes them as bright, so that no threshold finds them.
        intensity_range: smallest and largest value of every image, such as (0, 255) for pictures; None gives each
            image a scale and an offset of its own, as in MR.

    Raises:
        SpecError: for a shape, spacing, number, contrast, range or list of names that does not fit.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    num_classes: int
    in_channels: int = 1
    name: str = "phantom"
    class_names: tuple[str, ...] = ()
    contrast: float = 0.0
    intensity_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # Bundles give lists; tuples keep the specification hashable.
        object.__setattr__(self, "shape", tuple(int(side) for side in self.shape))
        object.__setattr__(self, "spacing", tuple(float(step) for step in self.spacing))
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        if len(self.shape) not in (2, 3) or min(self.shape) < SMALLEST_SIDE:
            msg = f"phantom shape {self.shape}: two or three sides of at least {SMALLEST_SIDE} are allowed; enlarge it"
            raise SpecError(msg)
        if len(self.spacing) != len(self.shape) or not all(0 < step < math.inf for step in self.spacing):
            msg = f"phantom spacing {self.spacing}: give one positive number of mm for each of {len(self.shape)} axes"
            raise SpecError(msg)
        if self.num_classes < 2 or self.in_channels < 1:
            msg = (
                f"phantom with num_classes={self.num_classes}, in_channels={self.in_channels}: "
                "at least 2 classes (background counts) and 1 channel are needed"
            )
            raise SpecError(msg)
        if not -0.5 <= self.contrast <= 0.5:
            msg = f"phantom contrast {self.contrast}: -0.5 to 0.5 is allowed"
            raise SpecError(msg)
        if self.intensity_range is not None:
            low, high = (float(value) for value in self.intensity_range)
            object.__setattr__(self, "intensity_range", (low, high))
            if not low < high:
                msg = f"phantom intensity_range {(low, high)}: the first value must be smaller than the second"
                raise SpecError(msg)
        if self.class_names and len(self.class_names) != self.num_classes - 1:
            msg = (
                f"phantom with {len(self.class_names)} class_names: give {self.num_classes - 1}, one a foreground class"
            )
            raise SpecError(msg)
        if not self.name or self.name.startswith(".") or not self.name.replace("-", "").replace("_", "").isalnum():
            msg = f"phantom name {self.name!r}: letters, digits, '-' and '_' are allowed; choose another"
            raise SpecError(msg)


def make_phantom(spec: PhantomSpec, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one phantom; the same specification and seed give the same arrays.

    Args:
        spec: channels, classes and shape.
        seed: non-negative seed of everything that is drawn.

    Returns:
        image (C, *S) in arbitrary units, whose range differs from image to image as that of MR does, and its label
        map (*S) with values 0 … num_classes − 1.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in spec.shape), indexing="ij"))  # (D, *S)
    label = np.zeros(spec.shape, dtype=np.uint8)
    tissue, texture = _surroundings(spec.shape, rng)
    for first_class, centre, half in _cells(spec):
        along = int(np.argmax(half))
        inside, height = _body(grid, centre, half, along, rng)
        upper = height > rng.uniform(-0.2, 0.2)
        # With an odd number of classes the last body is whole.
        parts = [inside & upper, inside & ~upper] if first_class + 1 < spec.num_classes else [inside]
        for number, part in enumerate(parts):
            label[part] = first_class + number
            # Stripes along the body in one part, across it in the other; a sine of spread s has the amplitude √2 s.
            axis = along if number == 0 else (along + 1) % len(spec.shape)
            phase = 2 * np.pi * (grid[axis][part] / _TEXTURE_PERIOD + rng.random())
            texture[part] = math.sqrt(2) * np.sin(phase)
            tissue[part] = _GREY + spec.contrast
    return _acquire(spec, tissue, texture, rng), label


def write_phantoms(spec: PhantomSpec, folder: str | os.PathLike[str], *, cases: int, seed: int = 0) -> Path:
    """Write a folder of phantoms in the layout of the Medical Segmentation Decathlon.

    The folder holds `imagesTr`, `labelsTr` and `dataset.json`; images are NIfTI files with RAS axes, the spacing of
    the specification and sides that vary by up to 15 % from case to case. Channels come last, as in the Decathlon;
    a 2-D image is a volume of one slice. Everything is written beside `folder` and then renamed, so that several
    processes may ask for the same folder at once; a complete folder of the same specification is used as it is.

    Args:
        spec: what to write.
        folder: the folder to make; its parents are made too.
        cases: number of cases, at least 1.
        seed: seed of the folder; case i is the same however many cases are written.

    Returns:
        the folder.

    Raises:
        DataError: when `folder` holds something else, or nothing can be written there.
        SpecError: for fewer than one case.
    """
    if cases < 1:
        msg = f"{cases} phantoms asked for: at least 1 is needed; raise the number of cases"
        raise SpecError(msg)
    folder = Path(folder)
    # Looked at before completeness, so that a folder which another process finishes in between is never refused.
    occupied = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if _is_complete(folder, spec, cases=cases, seed=seed):
        return folder
    if occupied:
        msg = f"{folder} exists and is no complete folder of these phantoms: remove it or name another"
        raise DataError(msg)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        _write_cases(spec, draft, cases=cases, seed=seed)
        os.replace(draft, folder)
    except OSError as error:
        # Another process may have been quicker: then its folder holds the same phantoms.
        if not _is_complete(folder, spec, cases=cases, seed=seed):
            msg = f"phantoms cannot be written to {folder} ({error}): name a folder that can be written"
            raise DataError(msg) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def phantom_folder(spec: PhantomSpec, *, cases: int, seed: int = 0) -> Path:
    """The cached folder of these phantoms under the temporary folder of the machine, written when it is not there.

    Its name depends on the specification, the number of cases, the seed, the version of this package and the user.
    """
    recipe = {"spec": asdict(spec), "cases": cases, "seed": seed, "version": medsegdiff.__version__, "recipe": _RECIPE}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"medsegdiff-{_user()}" / f"{spec.name}-{key}"
    if folder.is_dir() and not _is_complete(folder, spec, cases=cases, seed=seed):
        # Cleaners of temporary folders remove single files; what they left is moved away whole, then removed.
        remains = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            os.replace(folder, remains)
        shutil.rmtree(remains, ignore_errors=True)
    return write_phantoms(spec, folder, cases=cases, seed=seed)


def _surroundings(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tissue of three kinds in blobs, (*S), and a speckle of spread 1, (*S)."""
    blobs = _smooth_noise(shape, [side / 10 for side in shape], rng)
    fluid, grey = np.quantile(blobs, [_FLUID_SHARE, 1 - _GREY_SHARE])
    tissue = np.where(blobs < fluid, _FLUID, np.where(blobs > grey, _GREY, _WHITE)).astype(np.float32)
    return tissue, _smooth_noise(shape, [0.7] * len(shape), rng)


def _smooth_noise(shape: tuple[int, ...], sigma: list[float], rng: np.random.Generator) -> NDArray[np.float32]:
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=2.5)
    return np.asarray(field / field.std(), dtype=np.float32)


def _cells(spec: PhantomSpec) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """One cell of the image for every pair of classes: first class, centre and half sides in voxels."""
    firsts = range(1, spec.num_classes, 2)
    counts = np.ones(len(spec.shape), dtype=int)
    while counts.prod() < len(firsts):
        counts[int(np.argmax(np.asarray(spec.shape) / counts))] += 1
    half = np.asarray(spec.shape) / counts / 2
    places = itertools.product(*(range(count) for count in counts))
    return [
        (first, (2 * np.asarray(place) + 1) * half - 0.5, half) for first, place in zip(firsts, places, strict=False)
    ]


def _body(
    grid: NDArray[np.float32],
    centre: NDArray[np.float64],
    half: NDArray[np.float64],
    along: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """A bent, turned ellipsoid in its cell: where it is, (*S), and the place along it, −1 … 1 inside, (*S)."""
    dims = len(half)
    radii = half * _RADII[dims][1] * rng.uniform(0.85, 1.15, dims)
    radii[along] = half[along] * _RADII[dims][0] * rng.uniform(0.9, 1.1)
    turn = np.triu(rng.normal(0, 0.2, (dims, dims)), 1)
    frame = (expm(turn - turn.T) / radii[:, None]).astype(np.float32)  # rows: the body's axes in voxels
    centre = centre + half * rng.uniform(-0.28, 0.28, dims)
    place = np.tensordot(frame, grid - centre.reshape(-1, *[1] * dims).astype(np.float32), axes=1)  # (D, *S)
    height = place[along].copy()
    place[(along + 1) % dims] += rng.uniform(0.2, 0.5) * (height**2 - 0.4)
    # Thicker at the upper end, as a head is.
    widths = np.sum(np.delete(place, along, axis=0) ** 2, axis=0)
    return (widths < (1 - height**2) * (1 + 0.25 * height)) & (np.abs(height) < 1), height


def _acquire(
    spec: PhantomSpec, tissue: NDArray[np.float32], texture: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The image of each channel: contrast, texture, bias field, noise, scale and offset."""
    ramps = [np.linspace(-1, 1, side, dtype=np.float32) for side in spec.shape]
    image = np.empty((spec.in_channels, *spec.shape), dtype=np.float32)
    axes = tuple(range(1, image.ndim))
    for channel in range(spec.in_channels):
        # Every second channel is inverted and later ones are flatter, as T1 and T2 weighting differ.
        contrast = (-1) ** channel / (1 + 0.25 * channel)
        signal = contrast * (tissue - 0.5) + 0.5 + _TEXTURE_SPREAD * texture
        bend = np.zeros(spec.shape, dtype=np.float32)
        for ramp in np.ix_(*ramps):
            bend += rng.uniform(-0.15, 0.15) * ramp + rng.uniform(-0.1, 0.1) * ramp**2
        signal = (signal + 0.5) * np.exp(bend)
        signal += _NOISE_SPREAD * rng.standard_normal(spec.shape, dtype=np.float32)
        image[channel] = signal * rng.lognormal(math.log(200), 0.7) + rng.uniform(-20, 60)
    if spec.intensity_range is None:
        return image
    low, high = spec.intensity_range
    lowest, highest = image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)
    return low + (high - low) * (image - lowest) / (highest - lowest)


def _write_cases(spec: PhantomSpec, folder: Path, *, cases: int, seed: int) -> None:
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    dims = len(spec.shape)
    for case, file_name in enumerate(_file_names(spec, cases)):
        rng = np.random.default_rng([seed, case])
        sides = np.rint(np.asarray(spec.shape) * rng.uniform(1 - SHAPE_SPREAD, 1 + SHAPE_SPREAD, dims)).astype(int)
        shape = tuple(max(SMALLEST_SIDE, int(side)) for side in sides)
        image, label = make_phantom(replace(spec, shape=shape), int(rng.integers(2**62)))
        spacing = np.asarray([*spec.spacing, 1.0][:3])
        sides = np.asarray([*shape, 1][:3])
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -(sides - 1) / 2 * spacing
        channels_last = np.moveaxis(image.reshape(spec.in_channels, *sides), 0, -1)  # (*S, C)
        if spec.in_channels == 1:
            channels_last = channels_last[..., 0]
        nib.save(nib.Nifti1Image(channels_last, affine), folder / "imagesTr" / file_name)
        nib.save(nib.Nifti1Image(label.reshape(sides), affine), folder / "labelsTr" / file_name)
    text = json.dumps(_description(spec, cases=cases, seed=seed), indent=2)
    (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")


def _file_names(spec: PhantomSpec, cases: int) -> list[str]:
    return [f"{spec.name}_{case:03d}.nii.gz" for case in range(cases)]


def _description(spec: PhantomSpec, *, cases: int, seed: int) -> dict[str, Any]:
    """The contents of `dataset.json`; the entry "phantom" tells a folder of phantoms from one of patients."""
    class_names = spec.class_names or tuple(f"class {number}" for number in range(1, spec.num_classes))
    return {
        "name": spec.name,
        "description": "generated phantoms, no patients",
        "licence": "CC0-1.0",
        "release": medsegdiff.__version__,
        "tensorImageSize": f"{len(spec.shape)}D",
        "modality": {str(channel): f"phantom {channel}" for channel in range(spec.in_channels)},
        "labels": {str(number): name for number, name in enumerate(("background", *class_names))},
        "numTraining": cases,
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in _file_names(spec, cases)
        ],
        "test": [],
        "phantom": {**json.loads(json.dumps(asdict(spec))), "cases": cases, "seed": seed, "recipe": _RECIPE},
    }


def _is_complete(folder: Path, spec: PhantomSpec, *, cases: int, seed: int) -> bool:
    """Whether the folder holds these phantoms, every file of them."""
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if found != _description(spec, cases=cases, seed=seed):
        return False
    return all((folder / pair[key]).is_file() for pair in found["training"] for key in ("image", "label"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())
