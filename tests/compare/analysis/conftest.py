"""Tables of studies that were never run, whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medsegdiff.compare.analysis.frames import canonical


def make_rows(method: str, dice: Sequence[Any], **changes: Any) -> pd.DataFrame:
    """Rows of one run, way of sampling and step: `dice` of each case, or of each case and class (cases, classes)."""
    keys: dict[str, Any] = {
        "run": f"{method}-{changes.get('options', '')}-{changes.get('fold', '')}-{changes.get('seed', '0')}",
        "method": method,
        "options": "",
        "fold": "",
        "seed": "0",
        "sampler": "" if method == "supervised" else "ddpm",
        "steps": 1,
        "step": changes.get("steps", 1),
        "draws": 1,
        "sampling_seed": "0",
        "probe": "",
        "t": np.nan,
        "status": "present",
        "first_case": 0,
    }
    keys |= changes
    first = keys.pop("first_case")
    values = np.asarray(dice, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    return pd.DataFrame(
        [
            {
                **keys,
                "case": f"case {first + i:03d}",
                "class_name": "abc"[k],
                "label": k + 1,
                "dice": value,
                "hd95": 20 * (1 - value),
                "prediction_volume": 1000.0 * (k + 1) + 10 * i,
                "truth_volume": 1000.0 * (k + 1),
            }
            for i, of_case in enumerate(values)
            for k, value in enumerate(of_case)
        ]
    )


@pytest.fixture(scope="session")
def rows() -> Callable[..., pd.DataFrame]:
    """`make_rows`."""
    return make_rows


@pytest.fixture(scope="session")
def table() -> Callable[..., pd.DataFrame]:
    """Joins rows to a table of cases as it is read."""
    return lambda *parts: canonical(pd.concat(parts, ignore_index=True))


@pytest.fixture(scope="session")
def dice() -> np.ndarray:
    """Of thirty cases."""
    return np.random.default_rng(0).uniform(0.7, 0.9, 30)


@pytest.fixture(scope="session")
def noise() -> Callable[[int], np.ndarray]:
    """Small differences of thirty cases whose mean is zero."""

    def make(seed: int) -> np.ndarray:
        values = np.random.default_rng(seed).normal(0, 0.004, 30)
        return values - values.mean()

    return make


@pytest.fixture(scope="session")
def study_cases(table, rows, dice, noise) -> pd.DataFrame:
    """A little of everything: every analysis has something to say about it."""
    parts = [
        rows("supervised", np.stack([dice, dice - 0.02], axis=1) + noise(seed)[:, None], seed=str(seed))
        for seed in (0, 1)
    ]
    drift = {"diffusion": -0.02, "recycling": 0.004, "segdiff": 0.1}
    for number, (method, last) in enumerate(drift.items()):
        for seed in (0, 1):
            for sampler in ("ddpm", "ddim"):
                for step in (1, 2, 3):
                    level = dice - 0.01 * number + last * (step - 3) / 2 + noise(10 * number + seed)
                    two = np.stack([level, level - 0.02], axis=1)
                    parts.append(rows(method, two, seed=str(seed), sampler=sampler, steps=3, step=step))
    recycling = np.stack([dice, dice - 0.02], axis=1)
    parts += [
        rows("recycling", recycling + 0.003, steps=3, draws=4),
        rows("recycling", recycling - 0.003, steps=2),
        rows("recycling", recycling + 0.002 + noise(7)[:, None], steps=3, sampling_seed="1"),
        rows("recycling", recycling - 0.01, steps=3, options="T=3"),
        *(rows("supervised+recycling", recycling + 0.01, steps=3, seed=seed) for seed in ("0", "1")),
        *(
            rows("diffusion", recycling + gain, sampler="", probe=probe, t=250.0)
            for probe, gain in (("truth", 0.05), ("noise", -0.05))
        ),
    ]
    return table(*parts)


@pytest.fixture(scope="session")
def study_runs(study_cases) -> pd.DataFrame:
    """A row for each run and sampling of `study_cases`, and a failed one."""
    keys = ["run", "method", "options", "fold", "seed", "sampler", "steps", "draws", "sampling_seed"]
    ordinary = study_cases[study_cases["probe"] == ""]
    runs = ordinary[keys].drop_duplicates().astype({key: str for key in keys if key not in ("steps", "draws")})
    runs = runs.assign(
        status="done",
        reason="",
        optimiser_steps=100.0,
        train_minutes=2.0,
        parameters=1e6,
        seconds_per_case=0.5,
        machine="a machine",
        num_train_timesteps=np.where(runs["options"] == "T=3", 3.0, 1001.0),
    )
    failed = {**runs.iloc[0], "run": "x", "method": "cdal", "status": "failed", "reason": "the loss is not finite"}
    failed |= {"sampler": "", "steps": np.nan, "draws": np.nan, "train_minutes": np.nan, "seconds_per_case": np.nan}
    return pd.concat([runs, pd.DataFrame([failed])], ignore_index=True)
