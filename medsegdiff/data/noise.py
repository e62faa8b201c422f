"""Randomness keyed by what it is for, so that it never depends on order, batch or process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch

from medsegdiff.data.reading import case_name

NoiseSource = Callable[[int], torch.Tensor]


def key_to_seed(*key: object) -> int:
    """A 63-bit seed from any printable key: the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of torch seeded by a key such as (seed, case, draw, step)."""
    return torch.Generator(device).manual_seed(key_to_seed(*key))


class SamplingNoise:
    """The noise of sampling: one standard normal field of full size for each (seed, case, draw, step).

    Draw k of a case is thus the same alone, in a batch, in another order, whole or by windows, on one process or on
    two. Fields are made on the CPU, so that a GPU sees the same ones.

    Args:
        seed: of the run.
        cases: a name for each image of the batch, B of them.
        shape: (C, *S) of one full-size mask.
        draws: which draws, n of them; fields come out as (B * n, C, *S), all draws of an image side by side.
        window: slices of the spatial axes to cut from each field, for sampling one window of a larger image.
    """

    START = "x_T"

    def __init__(
        self,
        seed: int,
        cases: Sequence[str],
        shape: Sequence[int],
        *,
        draws: Sequence[int] = (0,),
        window: Sequence[slice] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed = seed
        self.cases = list(cases)
        self.shape = tuple(shape)
        self.draws = list(draws)
        self.window = window
        self.device = device

    def x_T(self) -> torch.Tensor:
        """The noise that sampling starts from, (B * n, C, *S)."""
        return self._field(self.START)

    def __call__(self, step: int) -> torch.Tensor:
        """The noise added at the visited step of index `step`, (B * n, C, *S)."""
        return self._field(step)

    def latent(self, step: int, features: int) -> torch.Tensor:
        """The latent z of the visited step of index `step`, standard normal (B * n, features), the same by windows."""
        return self._draw((features,), "z", step).to(self.device)

    def _field(self, step: int | str) -> torch.Tensor:
        fields = self._draw(self.shape, step)
        if self.window is not None:
            fields = fields[(slice(None), slice(None), *self.window)]
        return fields.to(self.device)

    def _draw(self, shape: Sequence[int], *key: int | str) -> torch.Tensor:
        return torch.stack(
            [
                torch.randn(shape, generator=keyed_generator(self.seed, case, draw, *key))
                for case in self.cases
                for draw in self.draws
            ]
        )


class TrainingNoise:
    """The randomness of one training batch: an own stream for each sample, keyed by (seed, epoch, sample).

    Two processes that share a batch draw what one process would draw for it. Each call advances all streams, so
    consecutive calls give independent noises.

    Args:
        seed: of the run.
        epoch: of training.
        samples: a name for each sample of the batch, B of them; several crops of one case need distinct names.
        device: where the streams live; those of a CPU and of a GPU differ.
    """

    def __init__(self, seed: int, epoch: int, samples: Sequence[str], *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._generators = [keyed_generator(seed, epoch, sample, device=device) for sample in samples]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, *shape), float32."""
        return torch.stack([torch.randn(tuple(shape), generator=g, device=self.device) for g in self._generators])

    def uniform(self) -> torch.Tensor:
        """One number in [0, 1) for each sample, (B,)."""
        return torch.cat([torch.rand(1, generator=g, device=self.device) for g in self._generators])


def case_names(image: torch.Tensor) -> list[str]:
    """A name for each image of a batch (B, C, *S): its file's where MONAI recorded one, else its content's hash."""
    files = getattr(image, "meta", {}).get("filename_or_obj")
    if isinstance(files, str):
        files = [files]
    if files is not None and len(files) == len(image):
        return [case_name(str(file)) for file in files]
    return [
        hashlib.blake2b(one.detach().float().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for one in torch.unbind(torch.as_tensor(image), 0)
    ]
