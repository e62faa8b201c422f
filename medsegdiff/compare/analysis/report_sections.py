"""The sections of a report after its verdicts: what each shows, in which words, figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from medsegdiff.compare.analysis import figures, quality_figures
from medsegdiff.compare.analysis.drawing import save_figure
from medsegdiff.compare.analysis.frames import ENTRY, primary_entries
from medsegdiff.compare.analysis.report_tables import (
    METRICS_SHOWN,
    Table,
    means_table,
    paired_table,
    probe_table,
    settings_table,
    spread_table,
    uncertainty_table,
    volume_table,
)
from medsegdiff.compare.analysis.sampling_analyses import CURVES
from medsegdiff.compare.analysis.summary import StudyTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure in a report."""

    path: Path
    caption: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report with a heading of its own; one without pictures and tables is left out."""

    name: str
    title: str
    text: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def sections(
    study: StudyTables, tables: dict[str, pd.DataFrame], folder: Path, *, pictures: Sequence[Section] = ()
) -> list[Section]:
    """All sections that the study has anything for, in their order.

    Args:
        study: its tables.
        tables: what `analyse` made of them.
        folder: for the figures, which are written here.
        pictures: sections of single cases, which come after the curves.

    Raises:
        DataError: a figure cannot be written.
    """
    cases = study.cases

    def draw(name: str, figure: Figure | None, caption: str) -> list[Picture]:
        return [] if figure is None else [Picture(save_figure(figure, folder / f"{name}.png"), caption)]

    found = [
        Section(
            "against-supervised",
            "Against the supervised network",
            "Paired differences over the same cases. The grey band is the margin of being on par, one Dice point; "
            "p-values are corrected for the number of methods (Holm).",
            [
                *draw(
                    "against_supervised",
                    figures.forest_figure(tables["against_supervised"]),
                    "Mean paired difference of Dice with its 95 % interval, and in how many cases a method is better.",
                ),
                *draw("cases", figures.cases_figure(cases), "Every case, with median and quartiles."),
            ],
            [paired_table("Differences to the supervised network", tables["against_supervised"], holm=True)],
        ),
        Section(
            "steps",
            "Over the sampling steps",
            "The prediction of x_0 at every step against the truth, and what the steps after the first change.",
            draw(
                "step_curves",
                figures.step_curves_figure(tables["step_curves"]),
                "Mean over cases with 95 % intervals. Intervals overlap because cases differ, also where a paired "
                "difference is clear: see the table.",
            ),
            [
                paired_table("Last step − first step", tables["last_minus_first"], holm=True),
                means_table("Every step", tables["step_curves"], {"step": "step"}, CURVES),
            ],
        ),
        *pictures,
        Section(
            "classes",
            "Class by class",
            "Missed counts structures of the truth that were not found at all, spurious those predicted where there is "
            "none; both enter the means with a Dice of 0.",
            [],
            [_classes(tables["classes"], cases)],
        ),
        Section(
            "case-by-case",
            "Case by case",
            "Whether a method gains on easy or on hard cases: its difference to the supervised network over the mean.",
            draw(
                "bland_altman_dice",
                quality_figures.score_figure(cases),
                "Bland–Altman plots of Dice: bias (line, with its interval) and limits of agreement (dashed).",
            ),
        ),
        Section(
            "ensembles",
            "Ensembles and their parts",
            "Mean probabilities of several networks against each of them alone.",
            draw(
                "ensembles",
                figures.forest_figure(_all_classes(tables["ensembles"]), against="each part"),
                "Mean paired difference of Dice with its 95 % interval.",
            ),
            [
                paired_table(
                    "Ensemble − part",
                    tables["ensembles"],
                    {"part": "part", "class_name": "class"},
                    holm=True,
                    metrics=CURVES,
                )
            ],
        ),
        Section(
            "truth-left",
            "How much of the truth a network reads from x_t",
            "One prediction at time t from the x_t of the truth, and one from pure noise. A network that ignores x_t "
            "does equally well from both, and its sampling can change nothing. What x_t itself says, at each voxel the "
            "class of its largest value, is how much of the truth is left in it.",
            draw(
                "truth_left",
                figures.truth_left_figure(tables["truth_left"]),
                "Dice from the truth's x_t (filled), from pure noise (hollow) and of x_t itself (upright).",
            ),
            [probe_table(tables["truth_left"])],
        ),
        *_sampling(tables, draw),
        Section(
            "variants",
            "With and without an option",
            "Variants against the plain method, in the same way of sampling.",
            draw(
                "variants",
                figures.forest_figure(_first_sampling(tables["variants"]), against="the plain method"),
                "Mean paired difference of Dice with its 95 % interval.",
            ),
            [paired_table("Variant − plain", tables["variants"], holm=True)],
        ),
        Section(
            "trainings",
            "Folds and trainings",
            "Mean and standard deviation of the means of folds, and of trainings from different seeds.",
            [],
            [spread_table("Folds", tables["folds"]), spread_table("Seeds of training", tables["seeds"])],
        ),
        Section(
            "volumes",
            "Volumes",
            "Bias and limits of agreement of the predicted volumes (areas in 2-D) after Bland and Altman.",
            draw(
                "volumes",
                quality_figures.volume_figure(cases),
                "Each point a structure of a case; line: bias, dashed: limits of agreement.",
            ),
            [volume_table(tables["volumes"])],
        ),
        Section(
            "uncertainty",
            "Is the uncertainty worth anything?",
            "Calibration error: how far confidence and accuracy lie apart. Area under the sparsification error curve: "
            "how much worse than an oracle the uncertainty finds the errors. Both on voxels that truth or prediction "
            "holds to be foreground; less is better.",
            [
                *draw(
                    "uncertainty",
                    quality_figures.uncertainty_figure(tables["uncertainty"], cases),
                    "Means over cases with 95 % intervals.",
                ),
                *draw(
                    "reliability",
                    quality_figures.reliability_figure(tables["reliability"], cases),
                    "Reliability diagram of all cases together, and how the confidences are distributed.",
                ),
                *draw(
                    "sparsification",
                    quality_figures.sparsification_figure(study.sparsification, cases),
                    "Sparsification: the error of what is left; dashed: the oracle.",
                ),
            ],
            [uncertainty_table(tables["uncertainty"])],
        ),
    ]
    filled = [
        Section(one.name, one.title, one.text, one.pictures, [table for table in one.tables if table.rows])
        for one in found
    ]
    return [section for section in filled if section.pictures or section.tables]


def _sampling(tables: dict[str, pd.DataFrame], draw: Callable[..., list[Picture]]) -> list[Section]:
    """How many steps, draws and seeds; when to stop; which T to train with."""
    steps, many, lengths = tables["sampling_steps"], tables["draws"], tables["schedule_lengths"]
    return [
        Section(
            "number-of-steps",
            "How many sampling steps",
            "One trained network, sampled in more or fewer steps over the whole schedule.",
            draw(
                "sampling_steps",
                figures.setting_figure(steps, "steps", xlabel="sampling steps"),
                "Mean over cases with 95 % intervals.",
            ),
            [settings_table("Sampling steps", steps)],
        ),
        Section(
            "early",
            "Stopping early",
            "The same sampling, ended before its last step. Not the same as fewer steps over the whole schedule, nor "
            "as training with a shorter one.",
            draw(
                "early_stopping",
                figures.early_stopping_figure(tables["early_stopping"]),
                "Paired difference of Dice to taking all steps, with 95 % intervals.",
            ),
            [paired_table("Stopped − to the end", tables["early_stopping"], {"step": "after step"}, metrics=CURVES)],
        ),
        Section(
            "schedule-length",
            "Training with another T",
            "Networks that were trained with schedules of different lengths.",
            draw(
                "schedule_lengths",
                figures.setting_figure(lengths, "T", xlabel="time steps of training, T"),
                "Mean over cases with 95 % intervals.",
            ),
            [settings_table("Length of the schedule", lengths, {"T": "T", "seconds_per_case": "seconds a case"})],
        ),
        Section(
            "draws",
            "How many draws",
            "Mean probabilities of several draws.",
            draw(
                "draws",
                figures.setting_figure(many, "draws", xlabel="draws"),
                "Mean over cases with 95 % intervals.",
            ),
            [settings_table("Draws", many)],
        ),
        Section(
            "sampling-seeds",
            "From one sampling seed to another",
            "How far the results of one network lie apart when only the sampling noise differs.",
            draw(
                "sampling_seeds",
                figures.seed_spread_figure(tables["sampling_seeds"]),
                "Mean |difference| of Dice between two seeds in a case, with 95 % intervals.",
            ),
            [means_table("Seeds of sampling", tables["sampling_seeds"], {"step": "step", "seeds": "seeds"}, CURVES)],
        ),
    ]


def _classes(table: pd.DataFrame, cases: pd.DataFrame) -> Table:
    """The classes of the primary ways of sampling."""
    chosen = table if table.empty else table.merge(primary_entries(cases), on=ENTRY)
    return means_table("Classes", chosen, {"class_name": "class"}, METRICS_SHOWN, counts=True, open_=True)


def _all_classes(table: pd.DataFrame) -> pd.DataFrame:
    return table if table.empty else table[table["class_name"] == ""]


def _first_sampling(table: pd.DataFrame) -> pd.DataFrame:
    """One row a variant and metric for the figure; the table has all."""
    return table if table.empty else table.drop_duplicates(["method", "options", "metric"])
