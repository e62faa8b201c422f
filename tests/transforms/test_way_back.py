from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    CropForegroundd,
    Flipd,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    Rotate90d,
    Spacingd,
    SpatialPadd,
)

from medsegdiff.errors import DataError, SpecError
from medsegdiff.transforms.way_back import WayBack

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.28, -0.96], [0, 0.96, 0.28]])
AXES = {
    "ras": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "permuted": np.eye(3)[[2, 0, 1]] @ np.diag([1.0, -1.0, -1.0]),
    "oblique": TURN @ np.diag([-1.0, 1.0, 1.0]),
}


def _image(axes, *, spacing=(0.7, 1.3, 2.0), size=(13, 11, 9)) -> MetaTensor:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(np.asarray(axes) * spacing)
    affine[:3, 3] = torch.tensor([-12.5, 30.25, 7.0])
    return MetaTensor(torch.rand(1, *size) + 0.1, affine=affine, meta={"filename_or_obj": "case_07.nii.gz"})


def _picture(size=(13, 10)) -> MetaTensor:
    return MetaTensor(torch.rand(3, *size), meta={"filename_or_obj": "a.png"})


def _preprocessing(*transforms) -> Compose:
    return Compose([*transforms, NormalizeIntensityd("image")])


TO_RAS = Orientationd("image", "RAS", labels=None)
VOLUMES = {
    "resampled": _preprocessing(TO_RAS, Spacingd("image", (1.0, 1.0, 1.0))),
    "resampled, padded": _preprocessing(TO_RAS, Spacingd("image", (1.0, 1.0, 1.0)), SpatialPadd("image", (20, 12, 24))),
    "padded, resampled": _preprocessing(SpatialPadd("image", (16, 14, 9)), Spacingd("image", (1.0, 2.0, 1.5))),
    "resampled, cropped": _preprocessing(TO_RAS, Spacingd("image", (1, 1, 1)), CenterSpatialCropd("image", (6, 9, 8))),
    "cropped to the bright": _preprocessing(
        TO_RAS, CropForegroundd("image", "image", select_fn=lambda x: x > 1.0, margin=1), Spacingd("image", (1, 1, 1))
    ),
    "corners kept": _preprocessing(Spacingd("image", (1, 1, 1), align_corners=True, scale_extent=True)),
    "turned": _preprocessing(Rotate90d("image", spatial_axes=(0, 2)), Flipd("image", 1), Spacingd("image", (1, 1, 1))),
    "nested": _preprocessing(Compose([TO_RAS, Spacingd("image", (1.0, 1.0, 1.0))])),
    "resized": _preprocessing(TO_RAS, Resized("image", (8, 16, 12), mode="trilinear")),
    "nearest": _preprocessing(TO_RAS, Spacingd("image", (1.0, 1.0, 1.0), mode="nearest")),
    "dark outside": _preprocessing(TO_RAS, Spacingd("image", (1.0, 1.0, 1.0), padding_mode="zeros")),
    "not at all": _preprocessing(),
}
PICTURES = {
    "resized": _preprocessing(Resized("image", (16, 7), mode="bilinear")),
    "resampled": _preprocessing(Spacingd("image", (0.6, 1.7))),
    "flipped, padded": _preprocessing(Flipd("image", 0), SpatialPadd("image", (16, 16))),
}


def _agree_with_monai(transform, image) -> None:
    item = transform({"image": image})
    result = torch.rand(2, *item["image"].shape[1:])
    expected = Invertd("pred", transform, "image", nearest_interp=False)({**item, "pred": MetaTensor(result)})["pred"]
    way_back = WayBack(transform, item["image"])
    assert way_back.grid == tuple(result.shape[1:])
    for channel, wanted in zip(result, expected, strict=True):
        restored = way_back(channel)
        assert restored.dtype == torch.float32 and restored.shape == (1, *image.shape[1:])
        torch.testing.assert_close(restored.as_tensor()[0], wanted.as_tensor(), rtol=0, atol=2e-6)
        torch.testing.assert_close(restored.affine, expected.affine)
        torch.testing.assert_close(restored.affine, image.affine, rtol=0, atol=1e-6)
        assert restored.meta["filename_or_obj"] == image.meta["filename_or_obj"]
        assert restored.applied_operations == []


@pytest.mark.filterwarnings("ignore:inverse has been called but no invertible transforms")
@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
@pytest.mark.parametrize("transform", VOLUMES.values(), ids=VOLUMES)
def test_a_volume_comes_back_as_monai_brings_it(transform, axes):
    _agree_with_monai(transform, _image(axes))


@pytest.mark.parametrize("transform", PICTURES.values(), ids=PICTURES)
def test_a_picture_comes_back_as_monai_brings_it(transform):
    _agree_with_monai(transform, _picture())


def test_resampling_that_turns_the_volume_is_left_to_monai():
    transform = _preprocessing(Spacingd("image", (1.0, 1.0, 1.0), diagonal=True))
    _agree_with_monai(transform, _image(AXES["oblique"]))


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_resampling_along_the_axes_needs_no_grid_of_coordinates(axes, monkeypatch):
    item = VOLUMES["resampled, padded"]({"image": _image(axes)})

    def refuse(*_args, **_options):
        pytest.fail("a grid of coordinates was made")

    monkeypatch.setattr(torch.nn.functional, "affine_grid", refuse)
    WayBack(VOLUMES["resampled, padded"], item["image"])(torch.rand(item["image"].shape[1:]))


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_a_ramp_comes_back_as_a_ramp(axes):
    # What is linear in space is so on every grid; at the border, resampling repeats the last voxel.
    image = _image(axes, spacing=(1.5, 1.5, 1.5), size=(9, 9, 9))
    transform = _preprocessing(TO_RAS, Spacingd("image", (1.0, 1.0, 1.0)))
    item = transform({"image": image})

    def ramp(like):
        index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in like.shape[1:]], indexing="ij")).double()
        position = like.affine[:3, :3] @ index.flatten(1) + like.affine[:3, 3:]
        return (torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64) @ position).reshape(like.shape[1:])

    restored = WayBack(transform, item["image"])(ramp(item["image"]).float())[0]
    inside = (slice(1, -1),) * 3
    torch.testing.assert_close(restored.as_tensor()[inside].double(), ramp(image)[inside], rtol=0, atol=1e-4)


def test_what_it_is_given_stays_as_it_was():
    item = VOLUMES["resampled, padded"]({"image": _image(AXES["permuted"])})
    operations, channel = len(item["image"].applied_operations), torch.rand(item["image"].shape[1:])
    before = channel.clone()
    way_back = WayBack(VOLUMES["resampled, padded"], item["image"])
    first, second = way_back(channel), way_back(channel)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(channel, before, rtol=0, atol=0)
    assert len(item["image"].applied_operations) == operations


def test_what_is_missing_is_said():
    item = VOLUMES["resampled"]({"image": _image(AXES["ras"])})
    with pytest.raises(SpecError, match="got a NormalizeIntensityd to undo; give an invertible transform"):
        WayBack(NormalizeIntensityd("image"), item["image"])
    with pytest.raises(DataError, match="'image' is a plain Tensor, without a record"):
        WayBack(VOLUMES["resampled"], item["image"].as_tensor())
    with pytest.raises(DataError, match=r"got a channel of \(2, 3, 4\) voxels"):
        WayBack(VOLUMES["resampled"], item["image"])(torch.rand(2, 3, 4))
