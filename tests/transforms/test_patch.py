"""Turned patches show the image alone, labels stay on it, and any size goes through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsegdiff.errors import SpecError
from medsegdiff.transforms.patch import RandAffinePatchd

RANGES = {"rotate_range": [0.3] * 3, "scale_range": [0.3] * 3, "translate_range": [9] * 3}


def ranges(dims: int) -> dict[str, list[float]]:
    return {name: values[: 1 if name == "rotate_range" and dims == 2 else dims] for name, values in RANGES.items()}


def patches(size: int, dims: int, **options: object) -> RandAffinePatchd:
    settings = {"label_key": "label", "spatial_size": [size] * dims, **ranges(dims), **options}
    return RandAffinePatchd(["image", "label"], **settings).set_random_state(seed=3)


def ramp(shape: tuple[int, ...]) -> torch.Tensor:
    """(1, *shape), each voxel its own index along the first axis, from 1."""
    values = torch.arange(1.0, shape[0] + 1).reshape(1, -1, *[1] * (len(shape) - 1))
    return values.expand(1, *shape).clone()


@pytest.mark.parametrize(("dims", "size"), [(2, 24), (3, 15), (3, 16)])
def test_a_patch_amid_a_large_image_has_no_blanks(dims, size):
    # The only voxel of the background, in the middle, is what each patch is cut out around.
    ones, label = (torch.ones(1, *[64] * dims) for _ in range(2))
    label[(0, *[32] * dims)] = 0
    transform = patches(size, dims, foreground_share=0)
    for _ in range(20):
        patch = transform({"image": ones, "label": label})
        assert patch["image"].shape == patch["label"].shape == (1, *[size] * dims)
        torch.testing.assert_close(patch["image"], torch.ones(1, *[size] * dims))
        assert (patch["label"] == 0).sum() <= 2**dims


@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_label_show_the_same_voxels(dims):
    values = ramp((40,) * dims)
    transform = patches(16, dims)
    for _ in range(20):
        patch = transform({"image": values, "label": values})
        index = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * dims, indexing="ij")).flatten(1).double()
        wanted = (transform.matrix[:-1, :-1] @ index)[0] + transform.matrix[0, -1] + 1
        wanted = wanted.clamp(1, 40).reshape(patch["image"].shape).float()  # beyond the edge it goes on as it ends
        torch.testing.assert_close(patch["image"], wanted, atol=1e-3, rtol=0)
        shown = patch["label"] > 0
        assert shown.float().mean() > 0.2
        assert (patch["label"] - patch["image"])[shown].abs().max() < 0.502


@pytest.mark.parametrize("dims", [2, 3])
def test_changes_keep_within_their_ranges(dims):
    transform = patches(17, dims)
    label = torch.zeros(1, *[41] * dims)
    label[(0, *[20] * dims)] = 1
    transform.crop.pos_ratio = 1
    middle = torch.full((dims,), 8.0, dtype=torch.float64)
    found = []
    for _ in range(50):
        transform.randomize({"label": label})
        linear, shift = transform.matrix[:-1, :-1], transform.matrix[:-1, -1]
        found.append([torch.linalg.det(linear), (linear @ middle + shift - 20).norm()])
    volume, distance = torch.tensor(found).T
    assert 0.7**dims < volume.min() < 0.9 and 1.1 < volume.max() < 1.3**dims
    assert 5 < distance.max() < 9 * dims**0.5 * 1.001


@pytest.mark.parametrize("shape", [(10, 40), (10, 40, 7)])
def test_an_image_smaller_than_the_patch_goes_on_as_it_ends(shape):
    ones = torch.ones(1, *shape)
    patch = patches(32, len(shape))({"image": ones, "label": ones})
    torch.testing.assert_close(patch["image"], torch.ones(1, *[32] * len(shape)))
    assert 0 < patch["label"].mean() < 0.9
    assert set(patch["label"].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("shape", "size"), [((40, 31), 16), ((40, 31, 20), 15), ((9, 31, 20), 16)])
def test_without_a_change_it_is_a_crop(shape, size):
    dims = len(shape)
    values, label = torch.rand(2, *shape), torch.zeros(1, *shape)
    voxel = tuple(n // 3 for n in shape)
    label[(0, *voxel)] = 1
    patch = patches(size, dims, prob=0, foreground_share=1)({"image": values, "label": label})
    wanted, found = values, patch["image"]
    for axis, (m, n) in enumerate(zip(voxel, shape, strict=True), start=1):
        start = min(max(0, m - size // 2), n - size) if n > size else n // 2 - size // 2
        wanted = wanted.narrow(axis, max(0, start), min(n, size))
        found = found.narrow(axis, max(0, -start), min(n, size))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    assert patch["label"].sum() == 1


def test_patches_lie_around_the_voxels_asked_for():
    label = torch.zeros(1, 30, 30)
    label[0, 10:20, 10:20] = 1
    inside = torch.zeros(1, 30, 30)
    inside[0, 20:22, 20:22] = 1
    data = {"image": inside, "label": label}
    options = {"prob": 0, "inside_key": "image"}
    assert all(patches(9, 2, foreground_share=1, **options)(data)["label"][0, 4, 4] == 1 for _ in range(5))
    background = patches(9, 2, foreground_share=0, **options)
    for _ in range(20):
        patch = background(data)
        assert patch["label"][0, 4, 4] == 0 and patch["image"][0, 4, 4] > 0.99


def test_a_seed_gives_the_same_patch_and_another_gives_others():
    data = {"image": torch.rand(1, 40, 40), "label": torch.ones(1, 40, 40)}
    data["label"][0, :4] = 0
    first, again = (patches(16, 2)(data)["image"] for _ in range(2))
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, patches(16, 2).set_random_state(seed=4)(data)["image"])


def test_the_patch_knows_where_it_lies():
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 20, 20, 20), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    transform = patches(8, 3)
    patch = transform({"image": image, "label": (image > 0.5).float()})["image"]
    assert patch.meta["filename_or_obj"] == "a.nii.gz"
    np.testing.assert_allclose(patch.affine, affine @ transform.matrix)
    np.testing.assert_array_equal(image.affine, affine)


@pytest.mark.parametrize("name", ["foreground_share", "prob"])
def test_shares_out_of_range_are_refused(name):
    with pytest.raises(SpecError, match=f"{name} is 1.5; allowed is a number from 0 to 1"):
        patches(8, 2, **{name: 1.5})
