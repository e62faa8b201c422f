"""The fingerprint of a data set: what its cases are like, and everything that does not fit together."""

from __future__ import annotations

import functools
import multiprocessing
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsegdiff.data.bundle_task import bundle_task
from medsegdiff.data.case_files import Expected
from medsegdiff.data.case_fingerprint import CaseFingerprint, measure_case
from medsegdiff.data.cohort_check import check_cohort
from medsegdiff.data.datalist import Item
from medsegdiff.data.listing_check import list_dataset
from medsegdiff.data.remarks import SEVERITIES, Remark, Severity
from medsegdiff.errors import DataError, check_at_least

# How many intensities of each channel are kept of all cases together, and at most of one.
_SAMPLES = 2_000_000
_MOST_SAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is known about a data set.

    Attributes:
        dataset_dir: its folder.
        expected: what its cases should be like.
        cases: each one's measures.
        parts: names of the cases of each part, as training would divide them; empty where it could not.
        remarks: all findings, errors first.
    """

    dataset_dir: Path
    expected: Expected
    cases: tuple[CaseFingerprint, ...] = field(repr=False)
    parts: Mapping[str, Sequence[str]] = field(repr=False)
    remarks: tuple[Remark, ...]

    def count(self, severity: Severity) -> int:
        """Number of remarks of a severity."""
        return Counter(remark.severity for remark in self.remarks)[severity]

    def require_sound(self) -> None:
        """Refuse a data set that training would fail on.

        Raises:
            DataError: there are errors among the remarks; the message tells how many and the first.
        """
        errors = [remark for remark in self.remarks if remark.severity == "error"]
        if errors:
            what = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
            msg = (
                f"{self.dataset_dir}: got {what}, the first {errors[0].case or 'of the data set'}: {errors[0].text}; "
                "training needs data without errors: mend them, or leave these cases out"
            )
            raise DataError(msg)


def fingerprint_dataset(
    dataset_dir: str | Path,
    *,
    bundle: str | Path | None = None,
    split_file: str | Path | None = None,
    fold: int | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Fingerprint:
    """Measure all labelled cases of a folder and collect everything that is inconsistent.

    One case at a time is in memory, or one a process.

    Args:
        dataset_dir: a folder with `dataset.json`, or `imagesTr` and `labelsTr`; volumes or pictures.
        bundle: folder of a bundle, whose axes, channels and classes the cases must have; without it they are those of
            `dataset.json`, or else of most cases.
        split_file: which case belongs to which part, see `msd_datalist`; by default the bundle's.
        fold: which fold is the test part, see `msd_datalist`.
        seed: of a split without a file.
        workers: how many processes.

    Raises:
        DataError: no usable folder or bundle; what is wrong with cases comes as remarks.
        SpecError: fewer than one process, or a fold that does not fit the split file.
    """
    check_at_least(1, workers=workers)
    task, bundle_split = (None, None) if bundle is None else bundle_task(bundle)
    listing = list_dataset(dataset_dir, split_file=split_file or bundle_split, fold=fold, seed=seed)
    expected = listing.expected
    if task is not None:
        known = listing.expected.channels == task.channels
        expected = replace(task, channel_names=listing.expected.channel_names if known else ())
    cases = _measure_all(listing.items, expected, workers=workers)
    remarks = [
        *listing.remarks,
        *_compare_names(expected, listing.expected),
        *(remark for case in cases for remark in case.remarks),
        *check_cohort(cases, expected=expected, parts=listing.parts),
    ]
    folder = f"{dataset_dir}/"
    remarks = [replace(remark, text=remark.text.replace(folder, "")) for remark in remarks]
    return Fingerprint(
        dataset_dir=Path(dataset_dir),
        expected=expected,
        cases=tuple(cases),
        parts=listing.parts,
        remarks=tuple(sorted(remarks, key=lambda remark: SEVERITIES.index(remark.severity))),
    )


def _compare_names(task: Expected, data: Expected) -> list[Remark]:
    ours, theirs = ([name.casefold() for name in names] for names in (task.class_names, data.class_names))
    if not theirs or ours == theirs:
        return []
    text = (
        f"the bundle's classes are {', '.join(task.class_names)}, those of dataset.json {', '.join(data.class_names)}: "
        "make sure that the values mean the same"
    )
    return [Remark("warning", "", text)]


def _measure_all(items: Sequence[Item], expected: Expected, *, workers: int) -> list[CaseFingerprint]:
    """The measures of all cases, in their order, with a bar for the progress."""
    from tqdm import tqdm

    samples = max(1, min(_MOST_SAMPLES, _SAMPLES // len(items)))
    measure = functools.partial(measure_case, expected=expected, samples=samples)
    found = {}
    bar = tqdm(total=len(items), desc="checking cases", unit="case", disable=None)
    with bar, closing(_measured(items, measure, workers=min(workers, len(items)))) as measured:
        for case in measured:
            found[case.case] = case
            bar.update()
    return [found[item["case"]] for item in items]


def _measured(
    items: Sequence[Item], measure: functools.partial[CaseFingerprint], *, workers: int
) -> Generator[CaseFingerprint, None, None]:
    if workers == 1:
        yield from map(measure, items)
        return
    # Forked processes would share the locks of threads that they do not have.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            for future in as_completed([pool.submit(measure, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            msg = (
                f"one of {workers} processes was ended from outside, most likely for want of memory; use fewer workers"
            )
            raise DataError(msg) from error
        finally:
            pool.shutdown(cancel_futures=True)
