"""A light copy of a study for a repository, from which everything that it shows can be made again."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsegdiff.compare.analysis.pictures import Snapshot, read_snapshots, shown_part
from medsegdiff.compare.analysis.report import write_report
from medsegdiff.compare.analysis.summary import SUMMARY_NAME
from medsegdiff.compare.tables import TABLES
from medsegdiff.errors import DataError, SpecError, one_line

RUNS = "runs.csv"
"""Is read by people and stays as it is; the other tables are compressed."""
_LEVELS = 63
"""Grey levels of an image and shades of an uncertainty: what noise there is beyond them takes most of the space."""
_PATH = re.compile(r"(?:/[\w.+-]+)+/([\w.+-]+)")
_STUDY_PATH = re.compile(r"""^(\s*(?:dataset_dir|split_file):\s*)(["']?)/(?:.*/)?([^/\n]+?)\2[ ]*$""", re.MULTILINE)


def publish_study(folder: str | Path, to: str | Path) -> Path:
    """Write what a repository keeps of a study: tables, pictures of cases, figures, summary, report, a page.

    Tables are compressed, images are rounded to a few grey levels and cut to what pictures show, and folders are taken
    out of the reasons why runs failed. Neither weights nor logs nor settings of runs are in it.

    Args:
        folder: of the study.
        to: where to; replaced where a published study is there.

    Returns:
        The path of the page, `README.md`.

    Raises:
        DataError: the study cannot be read, or nothing can be written.
        SpecError: there is something else in `to`.
    """
    folder, to = Path(folder), Path(to)
    if to.resolve() == folder.resolve() or (to.exists() and not _replaceable(to)):
        msg = f"{to} holds something that is no published study; choose another folder, or empty it"
        raise SpecError(msg)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as place:
            made = Path(place) / "study"
            made.mkdir(mode=0o755)
            _copy_tables(folder, made)
            _copy_pictures(folder / "pictures", made / "pictures")
            copy_study(folder / "study.yaml", made / "study.yaml")
            write_report(made, published=True)
            _put(made, to, before=Path(place) / "before")
    except OSError as error:
        msg = f"{to} cannot be written ({one_line(error)}); choose another folder"
        raise DataError(msg) from error
    return to / "README.md"


def _replaceable(to: Path) -> bool:
    """Whether a folder is empty or holds a published study, which has no folders of runs."""
    return to.is_dir() and (not any(to.iterdir()) or ((to / SUMMARY_NAME).is_file() and not (to / "runs").exists()))


def _put(made: Path, to: Path, *, before: Path) -> None:
    """Put a folder into its place; what was there comes back where that fails."""
    if not to.exists():
        made.rename(to)
        return
    to.rename(before)
    try:
        made.rename(to)
    except OSError:
        before.rename(to)
        raise


def copy_study(path: Path, to: Path) -> None:
    """The study file; of folders and files on this machine only their names."""
    if path.is_file():
        to.write_text(_STUDY_PATH.sub(r"\1\2\3\2", path.read_text(encoding="utf-8")), encoding="utf-8")


def without_folders(reason: str) -> str:
    """Why a run failed, with the names of files alone."""
    # A home folder may have spaces, which end a path for the pattern.
    return _PATH.sub(r"\1", reason.replace(f"{Path.home()}/", "/home/"))


def _copy_tables(folder: Path, to: Path) -> None:
    for name in TABLES:
        path = next((one for one in (folder / name, folder / f"{name}.gz") if one.is_file()), None)
        if path is None:
            continue
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "reason" in table:
            table["reason"] = table["reason"].map(without_folders)
        if name == RUNS:
            table.to_csv(to / name, index=False)
        else:
            # With no time in it, the same table gives the same file.
            table.to_csv(to / f"{name}.gz", index=False, compression={"method": "gzip", "mtime": 0})


def _copy_pictures(folder: Path, to: Path) -> None:
    """Image and truth of a case once, the rest of every method."""
    paths, snapshots = sorted(folder.glob("*.npz")), read_snapshots(folder)
    for case in dict.fromkeys(one.case for one in snapshots):
        members = [(path, one) for path, one in zip(paths, snapshots, strict=True) if one.case == case]
        kept = shown_part([one for _, one in members])
        for number, (path, snapshot) in enumerate(members):
            to.mkdir(exist_ok=True)
            np.savez_compressed(to / path.name, **_light(snapshot, kept, with_image=number == 0))


def _light(snapshot: Snapshot, kept: tuple[slice, ...], *, with_image: bool) -> dict[str, Any]:
    """The arrays of `write_snapshot`, blank outside of what pictures show."""
    blank = np.zeros(snapshot.truth.shape, np.float16)
    entropy, image = blank.copy(), blank
    entropy[kept] = np.round(snapshot.uncertainty[kept] * _LEVELS) / _LEVELS
    low, high = np.percentile(snapshot.image[kept], (0.5, 99.5))
    image[kept] = np.round((snapshot.image[kept].clip(low, high) - low) / max(high - low, 1e-6) * _LEVELS) / _LEVELS
    return {
        **({"image": image, "truth": snapshot.truth.astype(np.uint8)} if with_image else {}),
        "prediction": snapshot.prediction.astype(np.uint8),
        "entropy": entropy,
        "steps": snapshot.steps.astype(np.uint8),
        "spacing": np.array(snapshot.spacing, np.float32),
        **{name: np.array(getattr(snapshot, name)) for name in ("method", "options", "case", "rank")},
    }
