"""What a process of a cohort does: load the network once, then segment case by case."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medsegdiff.cohort.case import Case, segment_case
from medsegdiff.errors import DataError
from medsegdiff.memory import peak_memory_mib

if TYPE_CHECKING:
    from medsegdiff.inferers.predictor import BundlePredictor


class Load(Protocol):
    """Makes a predictor; what goes to other processes must be picklable."""

    def __call__(self, *, threads: int | None) -> BundlePredictor: ...


class Worker:
    """Segments cases with a network that is loaded once.

    Args:
        load: makes the predictor, with so many `threads` of torch, or None to leave those as they are.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._predictor: BundlePredictor | None = None

    def start(self, *, threads: int | None = None, must_see: Sequence[Path] = ()) -> tuple[str, dict[str, Any]]:
        """Load the network.

        Args:
            threads: how many torch may use; None leaves them as they are.
            must_see: paths that are there where the cohort was started.

        Returns:
            The name of this worker ("host:process id"), and the settings of the network.

        Raises:
            DataError: one of the paths is not seen from here.
            MedSegDiffError: what loading the network raises.
        """
        missing = next((path for path in must_see if not path.exists()), None)
        if missing is not None:
            msg = (
                f"{missing}: a worker on {socket.gethostname()} does not see it; put inputs, bundle and --output on a "
                "file system that all nodes share, under the same paths"
            )
            raise DataError(msg)
        self._predictor = self._load(threads=threads)
        return f"{socket.gethostname()}:{os.getpid()}", self._predictor.settings

    def segment(self, case: Case) -> dict[str, Any]:
        """Segment one case; see `segment_case`, with the worker's peak memory so far beside it."""
        if self._predictor is None:
            msg = "the worker segments after its start only"
            raise RuntimeError(msg)
        return segment_case(self._predictor, case) | {"peak_memory_mib": peak_memory_mib()}


def load_predictor(bundle: Path, *, threads: int | None = None, **options: Any) -> BundlePredictor:
    """A `BundlePredictor`, imported where it is made: torch and MONAI take seconds."""
    import torch

    from medsegdiff.inferers.predictor import BundlePredictor

    if threads is not None:
        torch.set_num_threads(threads)
    return BundlePredictor(bundle, **options)
