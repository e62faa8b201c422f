"""Noise schedules and samplers; `monai_scheduler` puts them behind MONAI's `Scheduler` interface."""

from __future__ import annotations

from medsegdiff.networks.schedulers.samplers import (
    SAMPLERS,
    SamplerStep,
    get_sampler,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver_pp,
)
from medsegdiff.networks.schedulers.schedule import END, NoiseSchedule, Posterior
from medsegdiff.networks.schedulers.tables import (
    SCHEDULES,
    build_schedule,
    cdal_schedule,
    cosine_schedule,
    custom_schedule,
    linear_schedule,
    segdiff_schedule,
)

__all__ = [
    "END",
    "SAMPLERS",
    "SCHEDULES",
    "NoiseSchedule",
    "Posterior",
    "SamplerStep",
    "build_schedule",
    "cdal_schedule",
    "cosine_schedule",
    "custom_schedule",
    "get_sampler",
    "linear_schedule",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpm_solver_pp",
    "segdiff_schedule",
]
