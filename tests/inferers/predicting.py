"""Images on many grids, and ways back to them, for tests of prediction."""

from __future__ import annotations

import json

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE = (22, 26, 18)


def blobs(shape=SHAPE, sigma=2.0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), sigma)
    return (noise / noise.std() * 50 + 300).astype(np.float32)


def rotation(degrees) -> np.ndarray:
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def affine(axes=((1, 0, 0), (0, 1, 0), (0, 0, 1)), spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(axes) * spacing
    affine[:3, 3] = (-12.5, 30.25, 7.0)
    return affine


PERMUTED = np.eye(3)[[2, 0, 1]]
FLIPPED = np.diag([-1.0, -1.0, 1.0])
OBLIQUE = rotation((20, -15, 30))
NO_RESAMPLING = {
    "ras": affine(),
    "lps": affine(FLIPPED),
    "permuted": affine(PERMUTED),
    "permuted and flipped": affine(PERMUTED @ np.diag([1.0, -1.0, -1.0])),
    "oblique": affine(OBLIQUE),
    "oblique and permuted": affine(OBLIQUE @ PERMUTED),
}
RESAMPLING = {
    "thick slices": affine(spacing=(0.8, 0.8, 2.5)),
    "thick slices, permuted": affine(PERMUTED @ FLIPPED, spacing=(2.5, 0.8, 0.8)),
    "thick slices, oblique": affine(OBLIQUE, spacing=(0.7, 0.9, 2.0)),
    "fine": affine(FLIPPED, spacing=(0.5, 0.6, 0.7)),
}


def save(path, affine, array=None):
    nibabel.save(nibabel.Nifti1Image(blobs() if array is None else array, affine), path)
    return path


def dice(a, b) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


RESTORED = [
    {
        "_target_": "medsegdiff.transforms.restore.Restored",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "maps": "$['variance'] if @uncertainty else []",
        "entropy": "@uncertainty",
        "probabilities": "@probabilities",
    }
]
INVERTED = [
    {
        "_target_": "Invertd",
        "keys": ["pred", "variance"],
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "allow_missing_keys": True,
    },
    {"_target_": "medsegdiff.transforms.uncertainty.Uncertaintyd", "keys": "pred"},
    {"_target_": "CopyItemsd", "keys": "pred", "names": "probabilities"},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
]


def configure(bundle, postprocessing, **changes):
    """Change the bundle's way back to the original grid, and other ids of its configuration."""
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    savers = [t for t in config["postprocessing"]["transforms"] if t["_target_"] == "SaveImaged"]
    config["postprocessing"]["transforms"] = postprocessing + savers
    # The ids that a bundle offers for a fusion.
    config |= {"fusion": None, "fuse_draws": None}
    config["network_def"] |= {"fusion": "@fusion", "fuse_draws": "@fuse_draws"}
    path.write_text(json.dumps(config | changes))
    return bundle
