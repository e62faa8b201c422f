"""Samples that depend on (seed, epoch, sample) and on nothing else."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAffined,
    RandGaussianNoised,
    RandSpatialCropSamplesd,
    ScaleIntensityd,
)

from medsegdiff.data.keyed_dataset import EpochIndex, KeyedCacheDataset, KeyedSampler, keyed_dataset, keyed_loader
from medsegdiff.errors import DataError, SpecError

LENGTH = 7


def cases() -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(1)
    return [{"case": f"c{n}", "image": torch.rand(1, 6, 6, generator=generator)} for n in range(LENGTH)]


def transforms(maximum: float = 1.0) -> Compose:
    return Compose(
        [
            EnsureTyped("image"),
            ScaleIntensityd("image", maxv=maximum),
            RandAffined("image", prob=0.5, translate_range=2, padding_mode="zeros"),
            RandGaussianNoised("image", prob=1.0, std=0.5),
        ]
    )


def dataset(seed: int = 0, **options: object) -> KeyedCacheDataset:
    return KeyedCacheDataset(cases(), transforms(), seed=seed, **options)


def image(data: KeyedCacheDataset, epoch: int, index: int) -> torch.Tensor:
    return torch.as_tensor(data[EpochIndex(epoch, index)]["image"])


def batches(epoch: int, num_workers: int) -> list[tuple[list[str], torch.Tensor]]:
    loader = keyed_loader(dataset(), batch_size=3, num_workers=num_workers)
    loader.sampler.set_epoch(epoch)
    return [(batch["sample"], torch.as_tensor(batch["image"])) for batch in loader]


@pytest.mark.parametrize("options", [{}, {"cache_num": 0}, {"cache_num": 3}], ids=["cached", "uncached", "partly"])
def test_a_sample_does_not_depend_on_the_order(options):
    forwards, backwards = dataset(**options), dataset()
    first = [image(forwards, 2, n) for n in range(LENGTH)]
    second = [image(backwards, 2, n) for n in reversed(range(LENGTH))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, image(forwards, 2, n)) for n, a in enumerate(first))


def test_samples_kept_on_disk_are_those_kept_in_memory(tmp_path):
    memory = dataset()
    # What a case is kept under is made of its pickle, which for tensors is never the same.
    items = [{**case, "image": case["image"].numpy()} for case in cases()]
    for _ in ("computed", "read back"):
        disk = keyed_dataset(items, transforms(), cache_dir=tmp_path / "cache")
        for epoch in (1, 2):
            assert all(torch.equal(image(disk, epoch, n), image(memory, epoch, n)) for n in range(LENGTH))
    assert disk[3]["sample"] == "c3#0"
    assert len(list((tmp_path / "cache").iterdir())) == LENGTH


def test_what_other_transforms_left_on_disk_is_not_taken(tmp_path):
    def read(maximum: float) -> torch.Tensor:
        return image(keyed_dataset(cases(), transforms(maximum), cache_dir=tmp_path), 0, 0)

    first = read(1.0)
    assert not torch.equal(read(2.0), first)
    assert torch.equal(read(1.0), first)


def test_a_share_of_the_cases_is_kept_in_memory(tmp_path):
    assert keyed_dataset(cases(), transforms(), cache_rate=0.5).cache_num == 3
    with pytest.raises(SpecError, match=r"cache_rate is 2; allowed"):
        keyed_dataset(cases(), transforms(), cache_rate=2)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot hold a cache"):
        keyed_dataset(cases(), transforms(), cache_dir=tmp_path / "file")


def test_epochs_seeds_and_samples_differ():
    data = dataset()
    assert not torch.equal(image(data, 1, 0), image(data, 2, 0))
    assert not torch.equal(image(data, 1, 0), image(dataset(seed=1), 1, 0))
    clean = dataset().data
    residues = [image(data, 1, n) - torch.as_tensor(clean[n]["image"]) for n in (0, 1)]
    assert not torch.allclose(residues[0], residues[1])


def test_a_plain_index_is_that_of_epoch_zero():
    data = dataset()
    assert torch.equal(torch.as_tensor(data[3]["image"]), image(data, 0, 3))


def test_samples_carry_names_that_are_unique():
    data = dataset()
    assert [data[n]["sample"] for n in range(LENGTH)] == [f"c{n}#0" for n in range(LENGTH)]
    unnamed = KeyedCacheDataset([{"image": torch.zeros(1, 2, 2)}] * 2, [EnsureTyped("image")])
    assert [unnamed[n]["sample"] for n in range(2)] == ["0#0", "1#0"]


def test_crops_of_a_case_have_names_of_their_own():
    crop = RandSpatialCropSamplesd("image", roi_size=(2, 2), num_samples=3, random_size=False)
    made = KeyedCacheDataset(cases(), [EnsureTyped("image"), crop])[EpochIndex(1, 2)]
    assert [one["sample"] for one in made] == ["c2#0", "c2#1", "c2#2"]


def test_a_sampler_deals_out_every_index_once_in_an_order_of_the_epoch():
    sampler = KeyedSampler(LENGTH, seed=0)
    orders = []
    for epoch in (1, 2, 1):
        sampler.set_epoch(epoch)
        dealt = list(sampler)
        assert all(index.epoch == epoch for index in dealt)
        orders.append([index.item for index in dealt])
        assert sorted(orders[-1]) == list(range(LENGTH))
    assert orders[0] == orders[2] != orders[1]
    other = KeyedSampler(LENGTH, seed=1)
    other.set_epoch(1)
    assert [index.item for index in other] != orders[0]


def test_without_shuffling_the_order_stays():
    assert [index.item for index in KeyedSampler(4, shuffle=False)] == [0, 1, 2, 3]


def test_two_processes_share_the_batch_that_one_process_gets():
    """A batch of two on each of two processes holds the samples of one process's batch of four."""
    one = [index.item for index in KeyedSampler(8, seed=3)]
    first, second = ([index.item for index in KeyedSampler(8, seed=3, rank=r, world_size=2)] for r in (0, 1))
    for start in range(0, 8, 4):
        half = slice(start // 2, start // 2 + 2)
        assert sorted(first[half] + second[half]) == sorted(one[start : start + 4])


@pytest.mark.parametrize(("length", "world_size"), [(7, 2), (7, 3), (1, 4), (2, 5), (6, 3)])
def test_every_process_gets_as_many_and_no_sample_is_left_out(length, world_size):
    samplers = [KeyedSampler(length, rank=rank, world_size=world_size) for rank in range(world_size)]
    dealt = [[index.item for index in sampler] for sampler in samplers]
    assert {len(part) for part in dealt} == {len(samplers[0])} == {-(-length // world_size)}
    assert {index for part in dealt for index in part} == set(range(length))


def test_what_does_not_divide_can_be_left_out_on_every_process():
    parts = [list(KeyedSampler(7, rank=rank, world_size=3, drop_last=True)) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert len({index.item for part in parts for index in part}) == 6


def test_an_epoch_leaves_the_global_random_state_alone():
    """Which seeds dropout: a resumed run would differ."""
    loader = keyed_loader(dataset(), batch_size=3)
    state = torch.get_rng_state()
    assert len(list(loader)) == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_loader_processes_change_nothing():
    alone, helped = batches(epoch=4, num_workers=0), batches(epoch=4, num_workers=2)
    assert [names for names, _ in alone] == [names for names, _ in helped]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(alone, helped, strict=True))


def test_loader_processes_that_live_on_learn_the_next_epoch():
    loader = keyed_loader(dataset(), batch_size=3, num_workers=1)
    seen: list[dict[str, torch.Tensor]] = []
    for epoch in (1, 2):
        loader.sampler.set_epoch(epoch)
        seen.append({})
        for batch in loader:
            seen[-1].update(zip(batch["sample"], torch.as_tensor(batch["image"]), strict=True))
    common = set(seen[0]) & set(seen[1])
    assert common
    assert not any(torch.equal(seen[0][name], seen[1][name]) for name in common)


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"), [(3, None, [3, 3]), (9, None, [7]), (3, False, [3, 3, 1])]
)
def test_a_last_batch_that_is_not_full_is_left_out_where_another_is(batch_size, drop_last, sizes):
    loader = keyed_loader(dataset(), batch_size=batch_size, drop_last=drop_last)
    assert [len(batch["sample"]) for batch in loader] == sizes
