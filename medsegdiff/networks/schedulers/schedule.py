"""The noise schedule: one immutable table of alphas_cumprod and the closed forms that follow from it."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medsegdiff.errors import SpecError

END = -1
"""The clean end of the chain, one step after timestep 0: alphas_cumprod there is 1 and x_t is x_0 itself."""


class Posterior(NamedTuple):
    """q(x_{t_prev} | x_t, x_0) = N(x_0 * x_0_hat + x_t * x_t_now, variance), see `NoiseSchedule.posterior`."""

    x_0: float
    """Coefficient of x_0 in the mean."""
    x_t: float
    """Coefficient of x_t in the mean."""
    variance: float
    """The posterior variance beta-tilde (Ho et al. 2020, equation 7)."""
    beta: float
    """Variance of the forward step from t_prev to t: the larger choice for the reverse variance."""


class NoiseSchedule:
    """How much of x_0 is left at each timestep: q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).

    The schedule holds its table and nothing else: which steps are visited is asked for (`timesteps`) and handed on as
    a list, so one object serves training and any number of samplings at once. Timesteps count from 0 (least noise) to
    T - 1 (most); the papers count from 1 to T. `END` stands for the clean end in front of timestep 0.

    All coefficients are computed in float64. What is done to tensors is done in float32 at least: half types go in,
    float32 comes out; float64 stays float64.

    Args:
        alphas_cumprod: the T values abar_0 > abar_1 > … of the table, each in (0, 1]. They are copied.
        name: name of the builder, see `build_schedule`.
        settings: the builder's arguments, such that `build_schedule(name, **settings)` gives an equal schedule.

    Raises:
        SpecError: if the table is empty, not one-dimensional, not strictly decreasing or leaves (0, 1].
    """

    def __init__(self, alphas_cumprod: Tensor | Sequence[float], *, name: str = "custom", **settings: Any) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).detach().cpu()
        _validate_table(table)
        self._alphas_cumprod: tuple[float, ...] = tuple(table.tolist())
        self._name = name
        self._settings = dict(settings)
        if name == "custom" and not settings:
            self._settings = {"alphas_cumprod": list(self._alphas_cumprod)}

    @property
    def name(self) -> str:
        """Name of the builder that made this schedule."""
        return self._name

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the builder's arguments, plain numbers that fit into a JSON file."""
        return copy.deepcopy(self._settings)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self._alphas_cumprod)

    @property
    def alphas_cumprod(self) -> Tensor:
        """A copy of the table: float64, (T,), on the CPU."""
        return torch.tensor(self._alphas_cumprod, dtype=torch.float64)

    @property
    def betas(self) -> Tensor:
        """Variances of the single forward steps, beta_t = 1 - abar_t / abar_{t-1}: float64, (T,), on the CPU."""
        table = self.alphas_cumprod
        return 1 - table / torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])

    def timesteps(self, steps: int) -> list[int]:
        """The visited timesteps, evenly spaced from T - 1 down to 0 with both included.

        With T = 1001 and 5 steps: [1000, 750, 500, 250, 0], the recycling paper's t = 1001, 751, 501, 251, 1. One
        step visits T - 1 alone.

        Raises:
            SpecError: if `steps` is not a whole number in 1..T.
        """
        last = self.num_train_timesteps - 1
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= last + 1:
            msg = (
                f"cannot visit {steps!r} timesteps: the schedule {self.name!r} has {last + 1}; "
                f"ask for a whole number of steps from 1 to {last + 1}"
            )
            raise SpecError(msg)
        if steps == 1:
            return [last]
        gaps = steps - 1
        # Whole-number rounding (half up): exact for any T, where a float32 linspace is not.
        return [(2 * last * k + gaps) // (2 * gaps) for k in range(gaps, -1, -1)]

    def alpha_cumprod_at(self, t: int) -> float:
        """abar_t for t in 0..T-1, and 1.0 at the clean end `END`.

        Raises:
            SpecError: if t is outside of END..T-1.
        """
        if not END <= t < self.num_train_timesteps:
            msg = f"timestep {t} does not exist: give one from 0 to {self.num_train_timesteps - 1}, or END ({END})"
            raise SpecError(msg)
        return 1.0 if t == END else self._alphas_cumprod[t]

    def snr(self, t: int) -> float:
        """Signal-to-noise ratio abar_t / (1 - abar_t); infinite at the clean end."""
        alpha_cumprod = self.alpha_cumprod_at(t)
        return math.inf if alpha_cumprod == 1 else alpha_cumprod / (1 - alpha_cumprod)

    def log_snr(self, t: int) -> float:
        """Natural logarithm of `snr`; DPM-Solver's lambda_t = log(alpha_t / sigma_t) is half of it."""
        return math.log(self.snr(t))

    def scales(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), the scales of x_0 and of the noise in x_t.

        Args:
            t: one timestep for all, or integers of shape (B,), in END..T-1.
            like: a tensor (B, …) whose device, rank and dtype (float32 at least) the scales get.

        Returns:
            Two tensors of shape (1, 1, …) or (B, 1, …) that broadcast against `like`.

        Raises:
            SpecError: if t is outside of the schedule or does not have one entry per item.
        """
        values = [self.alpha_cumprod_at(step) for step in _as_list(t, like)]
        return _column([v**0.5 for v in values], like), _column([(1 - v) ** 0.5 for v in values], like)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """Draw from q(x_t | x_0): sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise.

        Args:
            x_0: clean sample (B, …) on any device.
            noise: standard normal noise of the same shape and device.
            t: one timestep for all, or integers of shape (B,), in END..T-1.

        Returns:
            x_t (B, …), in x_0's dtype for float32 and float64, in float32 for all others.

        Raises:
            SpecError: if t is outside of the schedule or does not have one entry per item.
        """
        signal, noise_scale = self.scales(t, x_0)
        return signal * x_0.to(signal.dtype) + noise_scale * noise.to(signal.dtype)

    def posterior(self, t: int, t_prev: int) -> Posterior:
        """Coefficients of q(x_{t_prev} | x_t, x_0) for any two visited timesteps.

        Ho et al. (2020), equations 6-7, with the beta of the whole stretch as in the respacing of Nichol & Dhariwal
        (2021, section 4): beta = 1 - abar_t / abar_{t_prev}. Going to the clean end gives x_0 itself, without noise.

        Args:
            t: the timestep of x_t, in 0..T-1.
            t_prev: the less noisy timestep gone to, END <= t_prev < t.

        Raises:
            SpecError: if the two are not in this order or not in the schedule.
        """
        validate_pair(t, t_prev)
        alpha_cumprod, alpha_cumprod_prev = self.alpha_cumprod_at(t), self.alpha_cumprod_at(t_prev)
        alpha = alpha_cumprod / alpha_cumprod_prev
        if t_prev == END:
            return Posterior(x_0=1.0, x_t=0.0, variance=0.0, beta=1 - alpha)
        shrink = (1 - alpha_cumprod_prev) / (1 - alpha_cumprod)
        return Posterior(
            x_0=alpha_cumprod_prev**0.5 * (1 - alpha) / (1 - alpha_cumprod),
            x_t=alpha**0.5 * shrink,
            variance=shrink * (1 - alpha),
            beta=1 - alpha,
        )

    def posterior_sample(
        self, x_0: Tensor, x_t: Tensor, noise: Tensor, t: int | Tensor, t_prev: int | Tensor
    ) -> Tensor:
        """Draw x_{t_prev} from q(x_{t_prev} | x_t, x_0), with the variance beta-tilde.

        Args:
            x_0: clean sample or its prediction (B, …).
            x_t: noisy sample of the same shape, at t.
            noise: standard normal noise of the same shape.
            t: one timestep for all, or integers of shape (B,).
            t_prev: as t, each less than its t; where it is END, x_0 itself comes back.

        Returns:
            x_{t_prev} (B, …), in x_0's dtype for float32 and float64, in float32 for all others.

        Raises:
            SpecError: as `posterior`, and if t or t_prev does not have one entry per item.
        """
        now, prev = _as_list(t, x_0), _as_list(t_prev, x_0)
        length = max(len(now), len(prev))
        now, prev = now * (length // len(now)), prev * (length // len(prev))
        rows = [self.posterior(step, step_prev) for step, step_prev in zip(now, prev, strict=True)]
        a, b, c = (
            _column(values, x_0) for values in zip(*((p.x_0, p.x_t, p.variance**0.5) for p in rows), strict=True)
        )
        return a * x_0.to(a.dtype) + b * x_t.to(a.dtype) + c * noise.to(a.dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoiseSchedule):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._alphas_cumprod)

    def __repr__(self) -> str:
        return f"NoiseSchedule(name={self.name!r}, num_train_timesteps={self.num_train_timesteps})"

    def _key(self) -> tuple[Any, ...]:
        return self._name, self._settings, self._alphas_cumprod


def validate_pair(t: int, t_prev: int) -> None:
    """Raise SpecError unless t_prev lies below t."""
    if t_prev >= t:
        msg = f"cannot step from timestep {t} to {t_prev}: t_prev must be smaller than t; list timesteps downwards"
        raise SpecError(msg)


def _validate_table(table: Tensor) -> None:
    if table.ndim != 1 or len(table) == 0:
        msg = f"alphas_cumprod has shape {tuple(table.shape)}: give a one-dimensional table with at least one timestep"
        raise SpecError(msg)
    if not bool(((table > 0) & (table <= 1)).all()) or not bool((table.diff() < 0).all()):
        msg = (
            f"alphas_cumprod runs from {table[0].item():.6g} to {table[-1].item():.6g} over {len(table)} timesteps: "
            "its values must fall strictly and stay in (0, 1]; lower the betas or the number of timesteps"
        )
        raise SpecError(msg)


def _as_list(t: int | Tensor, like: Tensor) -> list[int]:
    """The timesteps as a list of length 1 or B."""
    if not isinstance(t, Tensor):
        return [operator.index(t)]
    if t.is_floating_point() or t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(like))):
        msg = (
            f"timesteps have dtype {t.dtype} and shape {tuple(t.shape)} for a batch of {len(like)}: "
            f"give one whole number, or integers of shape ({len(like)},)"
        )
        raise SpecError(msg)
    return t.reshape(-1).tolist()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """`values` as a tensor (len(values), 1, …) that broadcasts against `like`, in float32 at least."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.tensor(values, dtype=dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))
