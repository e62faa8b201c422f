"""How the time steps of training are drawn: uniformly, or where the loss is large."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from medsegdiff.errors import SpecError, check_options


class TimeSampler(ABC):
    """Draws time steps 0..T-1 and says by which weight each loss keeps the mean over uniform t unbiased.

    Args:
        num_times: T, how many time steps there are to draw from.
    """

    name: str
    """What it is called in a configuration."""

    def __init__(self, num_times: int) -> None:
        if num_times < 1:
            msg = f"num_times is {num_times}; a time sampler needs at least 1 time step"
            raise SpecError(msg)
        self.num_times = num_times

    @abstractmethod
    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn uniform numbers (B,) in [0, 1) into time steps (B,) and weights (B,) for their losses."""

    @abstractmethod
    def update(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Learn from unweighted losses (B,) at time steps (B,)."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            SpecError: it is of a sampler of another kind, or of other bins.
        """
        if state.keys() != self.state_dict().keys():
            here, there = ("a", "no") if state else ("no", "a")
            msg = (
                f"the checkpoint is of a run with {here} history of importance, this one has {there} such history; "
                "resume with the time_sampler of the first run, or choose another --ckpt_dir"
            )
            raise SpecError(msg)


class UniformTimes(TimeSampler):
    """Every time step with the same probability, every weight one."""

    name = "uniform"

    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (uniform * self.num_times).long().clamp(max=self.num_times - 1), torch.ones_like(uniform)

    def update(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Nothing to learn."""


class ImportanceTimes(TimeSampler):
    """Time steps with probability in proportion to a running mean of the loss in bins of t.

    Fu et al. (2023, section 3.1) draw t with probability p_t in proportion to E[L_t], after Nichol & Dhariwal (2021),
    who take sqrt(E[L_t^2]) of each single t and weigh losses by 1 / (T p_t). A table of T = 1001 entries needs ten
    thousand samples before it says anything; here neighbouring time steps share a bin, whose mean is usable after a
    few. An unvisited bin stands at the mean of the visited ones, and a small uniform share keeps every p_t positive.

    Args:
        num_times: T.
        bins: number of bins of equal width, at most T.
        decay: of the running mean, its start corrected for as in Adam.
        uniform_share: part of the probability that is spread evenly.
        power: "mean" for E[L] (paper), "root_mean_square" for sqrt(E[L^2]) (Nichol & Dhariwal, the release).
        weighting: "unbiased" for 1 / (T p_t), "release" for T p_t, by which the release of Fu et al. multiplies (it
            stresses large losses twice and is biased).

    Raises:
        SpecError: a setting out of range.
    """

    name = "importance"

    def __init__(
        self,
        num_times: int,
        *,
        bins: int = 20,
        decay: float = 0.9,
        uniform_share: float = 0.01,
        power: str = "mean",
        weighting: str = "unbiased",
    ) -> None:
        super().__init__(num_times)
        for name, value, allowed in (
            ("power", power, ("mean", "root_mean_square")),
            ("weighting", weighting, ("unbiased", "release")),
        ):
            if value not in allowed:
                msg = f"{name} {value!r} does not exist; use one of {', '.join(allowed)}"
                raise SpecError(msg)
        if bins < 1 or not 0 <= decay < 1 or not 0 < uniform_share <= 1:
            msg = (
                f"got bins={bins}, decay={decay}, uniform_share={uniform_share}; "
                "allowed are bins >= 1, 0 <= decay < 1, 0 < uniform_share <= 1"
            )
            raise SpecError(msg)
        self.bins = min(bins, num_times)
        self.decay = decay
        self.uniform_share = uniform_share
        self.squared = power == "root_mean_square"
        self.weighting = weighting
        # Bin b holds the time steps from edges[b] up to, not including, edges[b + 1].
        self._edges = [b * num_times // self.bins for b in range(self.bins + 1)]
        self._sums = torch.zeros(self.bins, dtype=torch.float64)
        self._mass = torch.zeros(self.bins, dtype=torch.float64)

    @property
    def probabilities(self) -> torch.Tensor:
        """p_t of every time step, (T,), float64, summing to one."""
        return (self._bin_probabilities() / self._widths()).repeat_interleave(self._widths().long())

    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), self._bin_probabilities().cumsum(0)])
        u = uniform.detach().double().cpu() * edges[-1]
        chosen = (torch.searchsorted(edges, u, right=True) - 1).clamp(0, self.bins - 1)  # (B,)
        inside = ((u - edges[chosen]) / (edges[chosen + 1] - edges[chosen])).clamp(0, 1 - 1e-9)  # (B,)
        starts, widths = torch.tensor(self._edges)[chosen], self._widths()[chosen]
        t = starts + (inside * widths).long()  # (B,)
        p_t = self._bin_probabilities()[chosen] / widths
        weights = self.num_times * p_t if self.weighting == "release" else 1 / (self.num_times * p_t)
        return t.to(uniform.device), weights.to(uniform)

    def update(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        bins = torch.searchsorted(torch.tensor(self._edges), t.detach().cpu(), right=True) - 1
        for b, loss in zip(bins.tolist(), losses.detach().double().cpu().tolist(), strict=True):
            value = loss * loss if self.squared else loss
            self._sums[b] = self.decay * self._sums[b] + (1 - self.decay) * value
            self._mass[b] = self.decay * self._mass[b] + (1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums.clone(), "mass": self._mass.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if len(state["sums"]) != self.bins:
            msg = (
                f"the checkpoint's importance history has {len(state['sums'])} bins, this run {self.bins}; use as many"
            )
            raise SpecError(msg)
        self._sums, self._mass = state["sums"].clone(), state["mass"].clone()

    def _bin_probabilities(self) -> torch.Tensor:
        visited = self._mass > 0
        even = self._widths() / self.num_times
        if not visited.any():
            return even
        means = torch.where(visited, self._sums / self._mass.clamp(min=1e-12), torch.zeros(()))
        means[~visited] = means[visited].mean()
        size = means.clamp(min=0).sqrt() if self.squared else means.clamp(min=0)
        mass = size * self._widths()
        learned = mass / mass.sum() if mass.sum() > 0 else even
        return (1 - self.uniform_share) * learned + self.uniform_share * even

    def _widths(self) -> torch.Tensor:
        return torch.tensor(self._edges, dtype=torch.float64).diff()


def build_time_sampler(name: str, num_times: int, **options: Any) -> TimeSampler:
    """The time sampler "uniform" or "importance".

    Raises:
        SpecError: no such sampler, or an option that it does not have.
    """
    kinds: dict[str, Callable[..., TimeSampler]] = {kind.name: kind for kind in (UniformTimes, ImportanceTimes)}
    if name not in kinds:
        msg = f"time sampler {name!r} does not exist; use {' or '.join(kinds)}"
        raise SpecError(msg)
    check_options(kinds[name], options, f"time sampler {name!r}")
    return kinds[name](num_times, **options)
