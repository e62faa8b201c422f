"""Predictors that need no network, and cases for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medsegdiff.cohort.case import Case
from medsegdiff.cohort.in_process import InProcess
from medsegdiff.cohort.run import CohortRun


@pytest.fixture
def make_cases(tmp_path) -> Callable[..., list[Case]]:
    """Cases whose images are files with a word in them, and whose results go into `tmp_path/out`."""

    def make(*names: str, kinds: tuple[str, ...] = ("label",), word: str = "image") -> list[Case]:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "out").mkdir(exist_ok=True)
        for name in names:
            (tmp_path / "in" / f"{name}.mha").write_text(word)
        return [Case(name, tmp_path / "in" / f"{name}.mha", tmp_path / "out", kinds) for name in names]

    return make


@pytest.fixture
def fake_loader(tmp_path) -> Callable[..., Callable[[], Any]]:
    """Makes what loads a predictor that does what the word in an image says, and notes every attempt in `log`.

    "image" is segmented; "unreadable" is a user error, "defect" another; "kill once" ends the process at the first
    attempt, with half a result on the disk, and "kill" at every one; "wait" lasts until the file holds another word.
    """
    log = tmp_path / "log"
    log.touch()

    def make(*, seed: int = 0, error: str | None = None, die: bool = False) -> Callable[[], Any]:
        # All of it is local, so that Ray sends it along instead of importing this file.
        def load(*, threads: int | None) -> Any:
            import os
            import signal
            import time
            from types import SimpleNamespace

            import numpy as np

            from medsegdiff.errors import DataError, SpecError
            from medsegdiff.files import temporary_name

            def predict(path: Path) -> Any:
                name, word = path.name.removesuffix(".mha"), path.read_text()
                attempts = log.read_text().split().count(name)
                with log.open("a") as file:
                    file.write(f"{name}\n")
                while word == "wait":
                    time.sleep(0.02)
                    word = path.read_text()
                if word == "kill" or (word == "kill once" and attempts == 0):
                    temporary_name(log.parent / "out" / f"{name}.nii.gz").write_text("half")
                    os.kill(os.getpid(), signal.SIGKILL)
                if word == "unreadable":
                    msg = f"{path}: cannot be read"
                    raise DataError(msg)
                if word == "defect":
                    raise ZeroDivisionError(word)
                label = np.full((3, 2, 2), seed % 2, np.uint8)
                return SimpleNamespace(
                    label=label,
                    entropy=label.astype(np.float32),
                    variance=None,
                    affine=np.eye(4),
                    stage_seconds={"sample": 0.5},
                    steps=(5,),
                )

            if error is not None:
                raise SpecError(error)
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            members = [{"weights": str(log.parent / "bundle" / "model.pt"), "method": "fake"}]
            settings = {"members": members, "seed": seed, "device": "cpu", "threads": threads}
            return SimpleNamespace(
                settings=settings,
                class_names=["background", "organ"],
                predict=predict,
                bundle_dir=log.parent / "bundle",
            )

        return load

    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    for file in ("model.pt", "model.json", "configs/inference.json"):
        (bundle / file).write_text(file)
    return make


@pytest.fixture
def attempts(tmp_path) -> Callable[[], list[str]]:
    """The names of the cases that the fake predictors were at, one for each attempt."""
    return lambda: (tmp_path / "log").read_text().split()


@pytest.fixture
def make_run(fake_loader, tmp_path) -> Callable[..., CohortRun]:
    """A run in this process with a fake predictor; `said` collects what it tells the user."""

    def make(cases: list[Case], **options: Any) -> CohortRun:
        said: list[str] = []
        run = CohortRun(cases, InProcess(fake_loader(**options)), bundle=tmp_path / "bundle", say=said.append)
        run.said = said
        run.load()
        return run

    return make
