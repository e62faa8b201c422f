"""Batches of slices, and a 2-D network that trains on them."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandSpatialCropSamplesd

from medsegdiff.data.keyed_dataset import KeyedCacheDataset, keyed_loader
from medsegdiff.data.slices import slices_collate
from medsegdiff.engines.trainer import DiffusionTrainer
from medsegdiff.errors import DataError, SpecError
from medsegdiff.methods import RunSpec, build_segmenter

SIZE = (4, 5, 3)


def sample(name: str, *, size=SIZE, channels: int = 2) -> dict[str, object]:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    image = torch.rand(channels, *size, generator=generator)
    return {"image": MetaTensor(image), "label": MetaTensor(image[:1] > 0.5).long(), "sample": name, "case": "x"}


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_every_slice_is_an_image_with_its_label_and_its_name(axis):
    samples = [sample("a#0"), sample("b#0")]
    batch = slices_collate(samples, axis=axis)
    assert set(batch) == {"image", "label", "sample"}
    assert len(batch["image"]) == len(batch["label"]) == len(batch["sample"]) == len(set(batch["sample"]))
    assert batch["sample"] == [f"{name}#0/{k}" for k in range(SIZE[axis]) for name in "ab"]
    for image, label, name in zip(batch["image"], batch["label"], batch["sample"], strict=True):
        whole, k = name.split("/")
        source = samples["ab".index(whole[0])]
        for got, key in ((image, "image"), (label, "label")):
            assert type(got) is torch.Tensor
            torch.testing.assert_close(got, source[key].as_tensor().select(axis, int(k)), rtol=0, atol=0)


def test_crops_are_slices_too_the_first_of_all_volumes_first():
    batch = slices_collate([[sample("a#0"), sample("a#1")], [sample("b#0"), sample("b#1")]])
    assert batch["sample"][:4] == ["a#0/0", "b#0/0", "a#1/0", "b#1/0"]
    assert len(batch["image"]) == 4 * SIZE[-1]


def test_volumes_dealt_out_to_two_processes_come_back_in_the_order_of_one():
    volumes = [[sample(f"{name}#{n}") for n in range(2)] for name in "abcd"]
    one = slices_collate(volumes)["sample"]
    first, second = (slices_collate(volumes[rank::2])["sample"] for rank in range(2))
    assert [name for pair in zip(first, second, strict=True) for name in pair] == one


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_gives_slices_of_keyed_crops(num_workers):
    crop = RandSpatialCropSamplesd(["image", "label"], roi_size=(3, 3, 2), num_samples=2, random_size=False)
    cases = [sample(name) | {"case": name} for name in "abc"]
    dataset = KeyedCacheDataset(cases, [crop])
    loader = keyed_loader(dataset, batch_size=2, num_workers=num_workers, collate_fn=slices_collate)
    loader.sampler.set_epoch(3)
    (batch,) = list(loader)
    assert batch["image"].shape == (2 * 2 * 2, 2, 3, 3)
    assert batch["label"].shape == (2 * 2 * 2, 1, 3, 3)
    assert len(set(batch["sample"])) == 8 and {name[1:] for name in batch["sample"]} == {"#0/0", "#0/1", "#1/0", "#1/1"}
    torch.testing.assert_close(batch["label"], (batch["image"][:, :1] > 0.5).long())


@pytest.mark.parametrize("method", ["recycling", "supervised"])
def test_a_2d_network_trains_on_volumes(training_items, method):
    spec = RunSpec(
        task="test",
        method=method,
        size="small",
        spatial_dims=2,
        in_channels=1,
        class_names=["background", "first", "second"],
        roi_size=[8, 8],
        options={"channels": [8, 8], "num_res_blocks": 0, "transformer": False},
        steps=2,
    )
    segmenter = build_segmenter(spec)
    dataset = KeyedCacheDataset(training_items(2, dims=3), [])
    loader = keyed_loader(dataset, batch_size=2, collate_fn=slices_collate)
    optimizer = torch.optim.SGD(segmenter.parameters(), lr=0.01)
    before = torch.cat([p.detach().flatten() for p in segmenter.parameters()])
    trainer = DiffusionTrainer("cpu", 1, loader, segmenter, optimizer, method=method)
    trainer.run()
    after = torch.cat([p.detach().flatten() for p in segmenter.parameters()])
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    output = trainer.state.output
    assert len(output) == 16 and output[0]["image"].shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([sample("a"), sample("b", size=(4, 5, 4))], r"images of shapes \(2, 4, 5, 3\), \(2, 4, 5, 4\); slices need"),
        ([sample("a", size=(4, 5))], r"images of shapes \(2, 4, 5\)"),
    ],
)
def test_what_is_no_stack_of_slices_is_refused(samples, message):
    with pytest.raises(DataError, match=message):
        slices_collate(samples)


@pytest.mark.parametrize("axis", [-4, 0, 2])
def test_axes_that_are_not_spatial_are_refused(axis):
    with pytest.raises(SpecError, match=f"axis is {axis}; slices lie along one of the three spatial axes"):
        slices_collate([sample("a")], axis=axis)
