"""A cached dataset and its loader whose augmentation and order depend on (seed, epoch, sample) alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset, list_data_collate
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, Randomizable
from torch.utils.data import Sampler

from medsegdiff.data.noise import key_to_seed
from medsegdiff.errors import DataError, SpecError, one_line


class EpochIndex(NamedTuple):
    """An index that carries the epoch, so that loader processes know it without being told."""

    epoch: int
    item: int


class _Keyed:
    """Random transforms of a caching dataset of MONAI, seeded anew for every (seed, epoch, sample)."""

    data: Any
    transform: Any
    seed: int

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, EpochIndex):
            key = EpochIndex(0, int(key))
        item = self.data[key.item]
        name = str(item.get("case", key.item))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=key_to_seed(self.seed, key.epoch, name) % 2**32)
        made = self._transform(key.item)  # type: ignore[attr-defined]  # of the dataset that this is mixed into
        crops = made if isinstance(made, list) else [made]
        for number, crop in enumerate(crops):
            crop["sample"] = f"{name}#{number}"
        return made


class KeyedCacheDataset(_Keyed, CacheDataset):
    """MONAI's `CacheDataset`, its random transforms seeded anew for every (seed, epoch, sample).

    What a sample looks like in an epoch is then independent of the order, of the number of loader processes and of
    whether training was interrupted. Items get a key "sample" with a name that is unique in the dataset.

    Args:
        data: dictionaries, one a case.
        transform: transforms; those before the first random one are computed once and kept.
        seed: of the augmentation.
        **cache_options: of `CacheDataset`.
    """

    def __init__(
        self, data: Sequence[dict[str, Any]], transform: Sequence[Any] | Compose, *, seed: int = 0, **cache_options: Any
    ) -> None:
        self.seed = seed
        super().__init__(data, transform, **{"progress": False, **cache_options})


class KeyedPersistentDataset(_Keyed, PersistentDataset):
    """The same over MONAI's `PersistentDataset`: what is computed once is kept on disk, for data beyond the memory.

    Args:
        data: dictionaries, one a case.
        transform: transforms; those before the first random one are computed once for each case and set of transforms.
        cache_dir: folder of the kept results.
        seed: of the augmentation.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Sequence[Any] | Compose,
        *,
        cache_dir: str | os.PathLike[str],
        seed: int = 0,
    ) -> None:
        self.seed = seed
        try:
            # With the transforms in the key, a changed spacing does not find what another one left.
            super().__init__(data, transform, cache_dir=Path(cache_dir), hash_transform=pickle_hashing)
        except (OSError, ValueError) as error:  # the latter for a file where the folder should be
            msg = f"{cache_dir} cannot hold a cache ({one_line(error)}); give --cache_dir a folder that can be written"
            raise DataError(msg) from error


def keyed_dataset(
    data: Sequence[dict[str, Any]],
    transform: Sequence[Any] | Compose,
    *,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_rate: float = 1.0,
) -> KeyedCacheDataset | KeyedPersistentDataset:
    """A keyed dataset that keeps what is deterministic in memory, or on disk.

    Args:
        data: dictionaries, one a case.
        transform: of the cases.
        seed: of the augmentation.
        cache_dir: a folder to keep results in; None keeps them in memory.
        cache_rate: share of the cases to keep in memory.

    Raises:
        SpecError: a share outside 0 … 1.
        DataError: a folder that cannot be written.
    """
    if not 0 <= cache_rate <= 1:
        msg = f"cache_rate is {cache_rate}; allowed is a share from 0 to 1"
        raise SpecError(msg)
    if cache_dir is not None:
        return KeyedPersistentDataset(data, transform, cache_dir=cache_dir, seed=seed)
    return KeyedCacheDataset(data, transform, seed=seed, cache_rate=cache_rate)


class KeyedSampler(Sampler[EpochIndex]):
    """Shuffled indices keyed by (seed, epoch), dealt out over processes.

    Every process gets as many; where the number does not divide, the first of the order are dealt again.

    Args:
        length: number of samples of the dataset.
        seed: of the order.
        shuffle: whether to shuffle at all.
        drop_last: where the number does not divide, leave out the last of the order instead.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if distributed else 0)
        self.world_size = (
            world_size if world_size is not None else (torch.distributed.get_world_size() if distributed else 1)
        )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next; the trainer does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world_size if self.drop_last else -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[EpochIndex]:
        generator = torch.Generator().manual_seed(key_to_seed(self.seed, "order", self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist() if self.shuffle else list(range(self.length))
        dealt = len(self) * self.world_size
        order = (order * self.world_size)[:dealt]
        for index in order[self.rank :: self.world_size]:
            yield EpochIndex(self.epoch, index)


def keyed_loader(
    dataset: KeyedCacheDataset | KeyedPersistentDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    drop_last: bool | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """A training loader over a keyed dataset, shuffled by the dataset's seed.

    Args:
        dataset: what to load.
        batch_size: samples a batch, on each process.
        num_workers: loader processes.
        drop_last: leave out a last batch that is not full; by default where at least one batch is full.
        collate_fn: makes a batch of the samples, such as `slices_collate`; by default MONAI's, which stacks them.
    """
    sampler = KeyedSampler(len(dataset), seed=dataset.seed)
    if drop_last is None:
        drop_last = len(dataset) >= batch_size * sampler.world_size
    # Then the samples that do not divide are left out too: N batches on two processes are N on one of twice the size.
    sampler.drop_last = drop_last
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=drop_last,
        collate_fn=list_data_collate if collate_fn is None else collate_fn,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Else every new iterator takes a number from the global generator, which seeds the network's dropout; loader
        # processes that stay alive take one in their first epoch only, and a resumed run would differ.
        generator=torch.Generator().manual_seed(0),
    )
