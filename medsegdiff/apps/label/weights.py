"""The weights that a bundle is served with: those it ships, and those of fine-tuning, of which each run is kept."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsegdiff.errors import SpecError
from medsegdiff.files import written_whole
from medsegdiff.methods import RunSpec, spec_path

SHIPPED = "shipped"
LATEST = "latest"
WEIGHTS = "model.pt"
RESULT = "result.json"
BETTER = "better"
"""Key of a result that tells whether the weights are at least as good as those before."""


@dataclass(frozen=True)
class KeptWeights:
    """Weights files by name.

    Fine-tuning never writes to the bundle: every run has a folder of its own, which counts once its `result.json` is
    there, the last file that a run writes. What a killed training leaves behind is thus not served.

    Attributes:
        bundle: folder of the bundle.
        folder: where fine-tuned weights of this bundle are kept, a folder for each run.
    """

    bundle: Path
    folder: Path

    def names(self) -> list[str]:
        """What can be asked for: "latest", "shipped", further weights of the bundle, and the runs of fine-tuning."""
        return [LATEST, SHIPPED, *self._others(), *self._runs()]

    def path(self, name: str = LATEST) -> Path:
        """The file of a name; "latest" is that of the last run that made them no worse, else the shipped one.

        Raises:
            SpecError: no such weights.
        """
        runs = self._runs()
        if name == LATEST:
            name = next((run for run in reversed(runs) if self._result(run).get(BETTER)), SHIPPED)
        if name == SHIPPED:
            return self.bundle / "models" / WEIGHTS
        if name in runs:
            return self.folder / name / WEIGHTS
        if name in self._others():
            return self.bundle / "models" / f"{name}.pt"
        msg = f"weights {name!r} do not exist; use one of {', '.join(self.names())}"
        raise SpecError(msg)

    def name_of(self, path: Path) -> str:
        """The name of a file that `path` gave, other than "latest"."""
        return next(name for name in self.names() if name != LATEST and self.path(name) == path)

    def spec(self, name: str = LATEST) -> RunSpec:
        """What the weights of a name are."""
        return RunSpec.read(spec_path(self.path(name)))

    def new_run(self) -> Path:
        """A folder for a run, named after the time so that the last sorts last."""
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
        path, number = self.folder / stamp, 1
        while path.exists():
            number += 1
            path = self.folder / f"{stamp}_{number}"
        path.mkdir(parents=True)
        return path

    def finish(self, run: Path, result: dict[str, Any]) -> None:
        """Let the weights of a run count."""
        with written_whole(run / RESULT, advice="free space, or choose another --work folder") as partial:
            partial.write_text(json.dumps(result, indent=2) + "\n")

    def result(self) -> dict[str, Any]:
        """What the last finished run wrote; empty where there is none."""
        runs = self._runs()
        return self._result(runs[-1]) if runs else {}

    def _result(self, run: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / run / RESULT).read_text()))

    def _runs(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob(f"*/{RESULT}"))

    def _others(self) -> list[str]:
        files = (self.bundle / "models").glob("*.pt")
        return sorted(path.stem for path in files if path.name != WEIGHTS and spec_path(path).is_file())
