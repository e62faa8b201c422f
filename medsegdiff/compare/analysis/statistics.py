"""The statistics of paired comparisons: what scipy and statsmodels compute, put together once and for all tables.

Values that are undefined (NaN) leave in pairs and are counted. A test that has nothing to go by is NaN, and so is an
interval of fewer than two values.
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsegdiff.errors import DataError
from medsegdiff.metrics.summary import CONFIDENCE, bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of some cases.

    Attributes:
        n: number of defined values.
        undefined: number of the others.
        mean: of the defined values.
        sd: their standard deviation (n − 1).
        ci_low: lower end of the 95 % interval of the mean, by bootstrap over cases.
        ci_high: its upper end.
    """

    n: int
    undefined: int
    mean: float
    sd: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """One method against another on the same cases.

    Attributes:
        n: number of pairs that are defined on both sides.
        undefined: number of the others.
        difference: mean of value − reference.
        sd: standard deviation of the differences (n − 1).
        ci_low: lower end of the 95 % interval of the mean difference, by bootstrap over cases.
        ci_high: its upper end.
        improved: share of the cases whose value is better than the reference.
        worse: share of the cases whose value is worse; equal cases count in neither.
        p_t: of Student's paired t-test, two-sided (the papers').
        p_wilcoxon: of Wilcoxon's signed-rank test, two-sided, pairs without a difference left out.
    """

    n: int
    undefined: int
    difference: float
    sd: float
    ci_low: float
    ci_high: float
    improved: float
    worse: float
    p_t: float
    p_wilcoxon: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Bias and limits of agreement of two measurements (Bland and Altman, Lancet 1986; 1999 for the intervals).

    Attributes:
        n: number of defined pairs.
        undefined: number of the others.
        bias: mean of measured − reference.
        bias_low: lower end of its 95 % interval, by Student's t.
        bias_high: upper end.
        lower: bias − 1.96 sd, the lower limit of agreement.
        lower_low: lower end of its 95 % interval.
        lower_high: upper end.
        upper: bias + 1.96 sd, the upper limit of agreement.
        upper_low: lower end of its 95 % interval.
        upper_high: upper end.
    """

    n: int
    undefined: int
    bias: float
    bias_low: float
    bias_high: float
    lower: float
    lower_low: float
    lower_high: float
    upper: float
    upper_low: float
    upper_high: float


def mean_of(values: ArrayLike) -> Mean:
    """Mean, standard deviation and interval of the values (N,) of N cases."""
    everything = np.asarray(values, dtype=float)
    x = everything[~np.isnan(everything)]
    low, high = bootstrap_interval(x)
    return Mean(
        n=len(x),
        undefined=len(everything) - len(x),
        mean=float(x.mean()) if len(x) else math.nan,
        sd=float(x.std(ddof=1)) if len(x) > 1 else math.nan,
        ci_low=low,
        ci_high=high,
    )


def compare_paired(values: ArrayLike, reference: ArrayLike, *, higher_is_better: bool = True) -> PairedComparison:
    """Compare two methods on the same cases.

    Args:
        values: of one method (N,), a case each.
        reference: of the other method (N,), the same cases in the same order.
        higher_is_better: as for Dice; not for distances. It decides what counts as improved, not the sign.

    Raises:
        DataError: the numbers of cases differ.
    """
    difference, undefined = _differences(values, reference)
    n = len(difference)
    low, high = bootstrap_interval(difference)
    better = difference if higher_is_better else -difference
    return PairedComparison(
        n=n,
        undefined=undefined,
        difference=float(difference.mean()) if n else math.nan,
        sd=float(difference.std(ddof=1)) if n > 1 else math.nan,
        ci_low=low,
        ci_high=high,
        improved=float((better > 0).mean()) if n else math.nan,
        worse=float((better < 0).mean()) if n else math.nan,
        p_t=_t_test(difference),
        p_wilcoxon=_wilcoxon(difference),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family corrected for their number (Holm 1979); a NaN stays one and does not count."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, dtype=float)
    defined = ~np.isnan(p)
    corrected = np.full(len(p), math.nan)
    if defined.any():
        # statsmodels collects garbage in every call, a third of a second each with torch and MONAI imported: what is
        # frozen it does not look through.
        gc.freeze()
        try:
            corrected[defined] = multipletests(p[defined], method="holm")[1]
        finally:
            gc.unfreeze()
    return corrected.tolist()


def agreement(measured: ArrayLike, reference: ArrayLike) -> Agreement:
    """Bland–Altman's bias and limits of agreement of two measurements (N,) of the same things.

    Raises:
        DataError: their numbers differ.
    """
    from scipy.stats import norm, t

    difference, undefined = _differences(measured, reference)
    n = len(difference)
    bias = float(difference.mean()) if n else math.nan
    sd = float(difference.std(ddof=1)) if n > 1 else math.nan
    z = norm.ppf((1 + CONFIDENCE) / 2)
    quantile = t.ppf((1 + CONFIDENCE) / 2, n - 1) if n > 1 else math.nan
    of_bias = quantile * sd / math.sqrt(max(n, 1))
    of_limit = quantile * sd * math.sqrt(1 / max(n, 1) + z**2 / (2 * max(n - 1, 1)))
    lower, upper = bias - z * sd, bias + z * sd
    return Agreement(
        n=n,
        undefined=undefined,
        bias=bias,
        bias_low=bias - of_bias,
        bias_high=bias + of_bias,
        lower=lower,
        lower_low=lower - of_limit,
        lower_high=lower + of_limit,
        upper=upper,
        upper_low=upper - of_limit,
        upper_high=upper + of_limit,
    )


def _differences(values: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """Defined differences, and how many are not."""
    a, b = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        msg = f"got values of shape {a.shape} and {b.shape}; give one number a case, of the same cases"
        raise DataError(msg)
    difference = a - b
    defined = ~np.isnan(difference)
    return difference[defined], int((~defined).sum())


def _t_test(difference: NDArray[np.float64]) -> float:
    if len(difference) < 2:
        return math.nan
    if not difference.any():
        return 1.0  # scipy gives NaN for 0 / 0
    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        # Equal differences have no spread but rounding: p is 0, or next to it, as it should be.
        warnings.filterwarnings("ignore", message=".*[Pp]recision loss.*", category=RuntimeWarning)
        return float(ttest_1samp(difference, 0).pvalue)


def _wilcoxon(difference: NDArray[np.float64]) -> float:
    if len(difference) < 2:
        return math.nan
    if not difference.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference).pvalue)
