"""From the files of a published 3-D data set to a checked folder in the manner of the Decathlon; what all share."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_prep.conversion import IMAGES, LABELS, About, Account, Conversion, Misfit, describe, existing_source
from data_prep.drafts import GO_ON, Draft, Unfinished, resumable
from data_prep.settings import VolumeSettings
from data_prep.sources import Source
from data_prep.splits import SplitRule, default_splits
from data_prep.volumes import VolumeCase, convert_case
from medsegdiff import __version__

logger = logging.getLogger(__name__)

# What is done with a case: None, or why it is a misfit.
Work = Callable[[VolumeCase], "str | None"]


@dataclass(frozen=True, kw_only=True)
class FoundVolumes:
    """The cases of a source, and what is no case.

    Attributes:
        cases: what is to be checked.
        misfits: what need not be: incomplete or repeated files.
        left_out: numbers of cases that are no part of the data set, by what they are.
    """

    cases: Sequence[VolumeCase] = ()
    misfits: Sequence[Misfit] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


# The files of a source by their names in it -> what they are.
FindVolumes = Callable[[Mapping[str, Path]], FoundVolumes]


def convert_volumes(
    source: str | Path,
    output: str | Path,
    *,
    about: About,
    find: FindVolumes,
    settings: VolumeSettings,
    split: SplitRule = default_splits,
    more: Mapping[str, Any] | None = None,
) -> Conversion:
    """Check the cases of a source and write the sound ones, with `dataset.json`, `splits/` and `misfits.json`.

    Archives inside a source are opened where it holds no case in the open. A conversion that was interrupted goes on
    where it stopped when it is run again.

    Args:
        source: folder, or archive (tar, tar.gz, zip).
        output: a folder that is empty or does not exist; it appears complete or not at all.
        about: the data set.
        find: lists the cases of a source.
        settings: what the user chose.
        split: which case belongs to which part.
        more: further entries of `dataset.json`.

    Raises:
        DataError: a source that is missing, no archive or without any sound case; an output that cannot be written.
        SpecError: links into an archive.
    """
    source, output = existing_source(source), Path(output)
    purpose = {
        "version": __version__,
        "source": [str(source), *([] if source.is_dir() else _state(source))],
        "name": about.name,
        "classes": about.classes,
        "link": settings.link,
    }
    with logging_redirect_tqdm(), resumable(output, purpose=purpose) as draft:
        files = Source(source, draft, link=settings.link)
        found = find(files.files)
        while not found.cases and files.open_archives():
            found = find(files.files)
        if files.closed_archives:
            logger.info("left closed, as cases lie beside them: %s", ", ".join(files.closed_archives))
        cases, repeated = _without_repeats(found.cases)
        work = partial(
            convert_case,
            folder=draft.folder,
            num_classes=len(about.classes),
            link=settings.link,
            scratch=files.scratch,
        )
        reasons = _convert_all(cases, draft, work, workers=settings.workers)
        kept = {case.name: case for case in cases if reasons[case.name] is None}
        unsound = [Misfit(case, reason) for case, reason in reasons.items() if reason is not None]
        misfits = [*found.misfits, *repeated, *unsound]
        _remove_others(draft.folder, kept.values())
        conversion = describe(
            draft.folder,
            about,
            {name: case.item for name, case in kept.items()},
            spatial_dims=3,
            parts={name: case.part for name, case in kept.items()},
            split=split,
            settings=settings,
            account=Account(
                misfits=[replace(misfit, reason=files.in_own_terms(misfit.reason)) for misfit in misfits],
                left_out=found.left_out,
            ),
            source=source,
            more=more,
        )
        files.remove_extracted()
    return conversion


def _without_repeats(cases: Sequence[VolumeCase]) -> tuple[list[VolumeCase], list[Misfit]]:
    """The cases whose name no other has, and a misfit for every other name."""
    named: dict[str, list[VolumeCase]] = {}
    for case in cases:
        named.setdefault(case.name, []).append(case)
    repeated = {name: ", ".join(str(case.label) for case in several) for name, several in named.items() if several[1:]}
    return (
        [case for case in cases if case.name not in repeated],
        [Misfit(name, f"{labels}: several cases of one name") for name, labels in repeated.items()],
    )


def _convert_all(cases: Sequence[VolumeCase], draft: Draft, work: Work, *, workers: int) -> dict[str, str | None]:
    """Convert what an earlier run has not; returns why cases are misfits, in their order."""
    for folder in (IMAGES, LABELS):
        (draft.folder / folder).mkdir(exist_ok=True)
    keys = {case.name: _key(case) for case in cases}
    reasons: dict[str, str | None] = {}
    for case in cases:
        result = draft.result_of(case.name, keys[case.name])
        if result is not None and _is_in_place(case, draft.folder, result):
            reasons[case.name] = result["misfit"]
    if reasons:
        logger.info("%d of %d cases are done already", len(reasons), len(cases))
    pending = [case for case in cases if case.name not in reasons]
    bar = tqdm(total=len(cases), initial=len(reasons), desc="checking cases", unit="case", disable=None)
    # Closed at once after an error, so that no process goes on writing.
    with bar, closing(_outcomes(pending, work, workers=workers)) as outcomes:
        for case, reason in outcomes:
            sizes = {} if reason else {target: (draft.folder / target).stat().st_size for target in case.targets}
            draft.record(case.name, keys[case.name], {"misfit": reason, "sizes": sizes})
            reasons[case.name] = reason
            bar.update()
    return {case.name: reasons[case.name] for case in cases}


def _outcomes(
    cases: Sequence[VolumeCase], work: Work, *, workers: int
) -> Generator[tuple[VolumeCase, str | None], None, None]:
    """Cases as they are finished, and why they are misfits."""
    workers = min(workers, len(cases))
    if workers <= 1:
        yield from ((case, work(case)) for case in cases)
        return
    # Forked processes would share the locks of threads that they do not have.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool, _cancelling(pool):
        futures = {pool.submit(work, case): case for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            msg = (
                f"one of {workers} processes was ended from outside, most likely for want of memory; give fewer "
                f"--workers: {GO_ON}"
            )
            raise Unfinished(msg) from error


@contextmanager
def _cancelling(pool: ProcessPoolExecutor) -> Iterator[None]:
    """After an error, finish only the cases that are being worked on."""
    try:
        yield
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def _start_worker() -> None:
    # Ctrl-C reaches all processes of a terminal; the first of them ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers wait for work forever, also when there is nobody left to give them any."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _key(case: VolumeCase) -> list[Any]:
    """What the result of a case depends on: its files, and what their values mean."""
    files = [[str(path), *_state(path)] for path in (*case.images.values(), case.label)]
    return [files, sorted(case.values.items()) if case.values is not None else None]


def _state(path: Path) -> list[int]:
    """Size and time of a file; nothing of a link into the void, of which the check will complain."""
    if not path.exists():
        return []
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _is_in_place(case: VolumeCase, folder: Path, result: Mapping[str, Any]) -> bool:
    """Whether the files of a finished case are as they were left."""
    if result["misfit"] is not None:
        return True
    files = {target: folder / target for target in case.targets}
    return {target: path.stat().st_size for target, path in files.items() if path.exists()} == result["sizes"]


def _remove_others(folder: Path, cases: Iterable[VolumeCase]) -> None:
    """Remove what belongs to no case: left over from a run that was killed, or of cases that have changed since."""
    targets = {folder / target for case in cases for target in case.targets}
    for kind in (IMAGES, LABELS):
        for path in (folder / kind).iterdir():
            if path not in targets:
                path.unlink()
