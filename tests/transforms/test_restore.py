from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    AsDiscreted,
    CenterSpatialCropd,
    Compose,
    Flipd,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    Spacingd,
    SpatialPadd,
)
from torch.profiler import ProfilerActivity, profile

from medsegdiff.errors import DataError, SpecError
from medsegdiff.transforms import way_back
from medsegdiff.transforms.restore import Restored, RunningArgMax
from medsegdiff.transforms.uncertainty import Uncertaintyd

TO_RAS = Orientationd("image", "RAS", labels=None)
SPACING = Spacingd("image", (1.0, 1.0, 1.0))
PREPROCESSING = {
    "resampled, padded": (TO_RAS, SPACING, SpatialPadd("image", (16, 16, 16))),
    "resampled, cropped": (TO_RAS, SPACING, CenterSpatialCropd("image", (6, 8, 7))),
    "resized": (TO_RAS, Resized("image", (8, 9, 10))),
    "turned": (TO_RAS, SpatialPadd("image", (12, 14, 16))),
}
PICTURES = {"resized": (Resized("image", (16, 7)),), "flipped, padded": (Flipd("image", 0), SpatialPadd("image", 16))}


def _item(transform, *, size=(13, 11, 9), num_classes=4, axes=None) -> dict:
    affine = torch.eye(4, dtype=torch.float64)
    if axes is not None:
        affine[:3, :3] = torch.as_tensor(axes, dtype=torch.float64)
    item = transform({"image": MetaTensor(torch.rand(1, *size), affine=affine, meta={"filename_or_obj": "a.nii.gz"})})
    # Smooth, so that hardly any voxel is in doubt between two classes by rounding alone.
    coarse = torch.randn(1, num_classes, *[3] * len(size))
    logits = torch.nn.functional.interpolate(coarse, size=item["image"].shape[1:])[0] * 3
    return {**item, "pred": MetaTensor(logits.softmax(dim=0)), "variance": torch.rand(1, *item["image"].shape[1:])}


def _by_monai(transform, item) -> dict:
    chain = [
        Invertd(["pred", "variance"], transform, "image", nearest_interp=False),
        Uncertaintyd("pred", "entropy"),
        lambda d: {**d, "probabilities": d["pred"].clone()},
        AsDiscreted("pred", argmax=True),
    ]
    return Compose(chain)({**item, "variance": MetaTensor(item["variance"])})


OBLIQUE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]]) * (0.8, 0.7, 2.5)
PERMUTED = np.eye(3)[[2, 0, 1]] @ np.diag([1.0, -1.0, -2.0])


@pytest.mark.parametrize("axes", [OBLIQUE, PERMUTED], ids=["oblique", "permuted"])
@pytest.mark.parametrize("steps", PREPROCESSING.values(), ids=PREPROCESSING)
def test_it_gives_what_inversion_entropy_and_arg_max_give_one_after_the_other(steps, axes):
    _agrees(Compose([*steps, NormalizeIntensityd("image")]), _item(Compose(steps), axes=axes))


@pytest.mark.parametrize("steps", PICTURES.values(), ids=PICTURES)
def test_it_does_so_for_pictures(steps):
    _agrees(Compose(steps), _item(Compose(steps), size=(13, 10), num_classes=3))


def _agrees(transform, item) -> None:
    # Recorded operations belong to the very transforms that made them, which both Compose share.
    result = Restored("pred", transform, "image", maps="variance", entropy=True, probabilities=True)(item)
    expected = _by_monai(transform, item)
    image_size = result["pred"].shape[1:]
    assert result["pred"].dtype == torch.uint8 and result["pred"].shape == expected["pred"].shape
    first, second = expected["probabilities"].as_tensor().topk(2, dim=0).values
    sure = (first - second > 1e-5) | (first == 0)  # zero where the preprocessing cropped
    assert sure.float().mean() > 0.9
    assert torch.equal(result["pred"].as_tensor()[0][sure].float(), expected["pred"].as_tensor()[0][sure])
    for name, channels in (("entropy", 1), ("probabilities", item["pred"].shape[0]), ("variance", 1)):
        assert result[name].shape == (channels, *image_size)
        torch.testing.assert_close(result[name].as_tensor(), expected[name].as_tensor(), rtol=0, atol=3e-6)
    for name in ("pred", "entropy", "probabilities", "variance"):
        torch.testing.assert_close(result[name].affine, expected["pred"].affine)
        assert result[name].meta["filename_or_obj"] == "a.nii.gz"


def test_what_is_not_asked_for_is_not_made():
    transform = Compose(PREPROCESSING["turned"])
    item = _item(transform)
    assert set(Restored("pred", transform)(item)) == {"image", "pred", "variance"}
    assert set(Restored("pred", transform, entropy=True)(item)) == {"image", "pred", "variance", "entropy"}
    del item["variance"]
    assert "variance" not in Restored("pred", transform, maps=["variance"])(item)
    assert item["pred"].shape[0] == 4  # the item that came in is as it was


def test_ties_and_what_was_cropped_away_go_to_the_first_class():
    transform = Compose([CenterSpatialCropd("image", (2, 2))])
    item = transform({"image": MetaTensor(torch.rand(1, 4, 4))})
    item["pred"] = torch.tensor([0.2, 0.4, 0.4]).reshape(3, 1, 1).expand(3, 2, 2)
    result = Restored("pred", transform, entropy=True)(item)
    expected = torch.zeros(1, 4, 4)
    expected[:, 1:3, 1:3] = 1
    assert torch.equal(result["pred"].as_tensor().float(), expected)
    assert (result["entropy"].as_tensor()[expected == 0] == 0).all()


def test_half_precision_is_off_by_little():
    transform = Compose(PREPROCESSING["resampled, padded"])
    item = _item(transform, axes=PERMUTED)
    full, half = (
        Restored("pred", transform, probabilities=True, dtype=dtype)(item) for dtype in ("float32", "float16")
    )
    assert half["probabilities"].dtype == torch.float16
    assert torch.equal(half["pred"].as_tensor(), full["pred"].as_tensor())
    torch.testing.assert_close(
        half["probabilities"].as_tensor().float(), full["probabilities"].as_tensor(), rtol=0, atol=2.5e-4
    )


def test_classes_can_be_read_one_by_one():
    transform = Compose(PREPROCESSING["resampled, padded"])
    item = _item(transform, axes=OBLIQUE)
    restored = Restored("pred", transform, probabilities=True)
    classes = restored.classes(item)
    assert len(classes) == 4
    together = torch.cat([channel.as_tensor() for channel in classes])
    torch.testing.assert_close(together, restored(item)["probabilities"].as_tensor(), rtol=0, atol=0)
    torch.testing.assert_close(classes[-1].as_tensor(), together[3:], rtol=0, atol=0)
    with pytest.raises(IndexError):
        classes[4]


def test_a_device_can_be_chosen(monkeypatch):
    transform, seen = Compose(PREPROCESSING["turned"]), []

    def come_back(_self, channel):
        seen.append(channel.device.type)
        return MetaTensor(torch.zeros(1, 2, 2, 2))

    monkeypatch.setattr(way_back.WayBack, "__call__", come_back)
    Restored("pred", transform, device="meta")(_item(transform))
    assert seen == ["meta"] * 4
    Restored("pred", transform)(_item(transform))
    assert seen[4:] == ["cpu"] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("steps", PREPROCESSING.values(), ids=PREPROCESSING)
def test_a_gpu_gives_what_the_cpu_gives(steps):
    transform = Compose(steps)
    item = _item(transform, axes=OBLIQUE)
    options = {"maps": "variance", "entropy": True, "probabilities": True}
    expected = Restored("pred", transform, **options)(item)
    result = Restored("pred", transform, device="cuda", **options)(item)
    for name in ("entropy", "probabilities", "variance"):
        assert result[name].device.type == "cuda"
        torch.testing.assert_close(result[name].cpu().as_tensor(), expected[name].as_tensor(), rtol=0, atol=1e-5)
    assert (result["pred"].cpu() != expected["pred"]).float().mean() < 1e-2


class TestMemory:
    """In float32 maps of the image's grid, as torch's allocator counts them."""

    SIZE = (64, 56, 48)
    CLASSES = 16

    @pytest.fixture(autouse=True)
    def _small_volumes_are_large(self, monkeypatch):
        monkeypatch.setattr(way_back, "_VOXELS_AT_ONCE", 2**14)

    def _peak(self, tmp_path, transform: str = "resampled, padded", **options) -> float:
        preprocessing = Compose(PREPROCESSING[transform])
        item = _item(preprocessing, size=self.SIZE, num_classes=self.CLASSES, axes=np.diag([-0.7, 0.7, 0.8]))
        restored = Restored("pred", preprocessing, **options)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            restored(item)
        recorded.export_chrome_trace(str(tmp_path / "trace.json"))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        held = [e["args"]["Total Allocated"] for e in events if e["name"] == "[memory]"]
        return max(held) / (math.prod(self.SIZE) * 4)

    @pytest.mark.parametrize("transform", PREPROCESSING)
    def test_four_maps_and_the_labels_suffice_for_any_number_of_classes(self, tmp_path, transform):
        # The fifth is the labels' quarter and a channel of the network's grid.
        assert 3.25 < self._peak(tmp_path, transform, entropy=True) < 5

    @pytest.mark.parametrize(("dtype", "maps"), [("float32", 16), ("float16", 8)])
    def test_probabilities_take_their_own_memory_and_half_of_it_in_half_precision(self, tmp_path, dtype, maps):
        assert maps + 1.25 < self._peak(tmp_path, probabilities=True, dtype=dtype) < maps + 4


def test_many_classes_are_counted_beyond_a_byte():
    label = RunningArgMax(300)
    for k in range(300):
        label.add(torch.tensor([float(k == 7), float(k == 299), 0.5]))
    assert label.result().tolist() == [7, 299, 0]
    assert RunningArgMax(256).add(torch.zeros(1)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ["pred", "other"]}, r"got the keys \('pred', 'other'\) .*give one of each"),
        ({"orig_keys": ["a", "b"]}, "give one of each"),
        ({"dtype": "int8"}, "dtype 'int8' is none for probabilities; use one of float32, float16"),
        ({"transform": NormalizeIntensityd("image")}, "a NormalizeIntensityd cannot be undone"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        Restored(**{"keys": "pred", "transform": Compose([]), **options})


def test_results_on_another_grid_are_refused():
    transform = Compose(PREPROCESSING["turned"])
    item = _item(transform)
    with pytest.raises(DataError, match=r"got a result of shape \(4, 5, 5, 5\) for an image of \(13, 14, 16\)"):
        Restored("pred", transform)({**item, "pred": torch.rand(4, 5, 5, 5)})


def test_a_missing_key_can_be_allowed():
    transform = Compose(PREPROCESSING["turned"])
    assert Restored("pred", transform, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        Restored("pred", transform)({})
