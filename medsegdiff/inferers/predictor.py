"""From an image file to a label map on the same grid, by a bundle."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged
from monai.utils.enums import CommonKeys as Keys
from monai.utils.enums import MetaKeys
from numpy.typing import NDArray

from medsegdiff.errors import DataError, SpecError, find_user_error
from medsegdiff.inferers.describe import describe_members
from medsegdiff.inferers.loading import resolve_device
from medsegdiff.inferers.sampling import VARIANCE, Sampling, largest_variance
from medsegdiff.inferers.slicewise import Segmenter

CONFIG = Path("configs") / "inference.json"


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """The result of one case, on the grid of its file.

    Attributes:
        label: class of every voxel (*S), uint8, or uint16 for more than 256 classes.
        probabilities: of the classes (K, *S), float32, brought back to the grid by linear interpolation.
        entropy: of the probabilities (*S), from 0 (one class is certain) to 1 (all are equal).
        variance: the largest variance over draws of any class's probability (*S); None for a single draw.
        affine: (4, 4), from voxel index to millimetres in RAS; the identity for pictures.
        stage_seconds: wall time of the stages "read", "preprocess", "sample" and "restore".
    """

    label: NDArray[Any]
    probabilities: NDArray[np.float32]
    entropy: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    affine: NDArray[np.float64]
    stage_seconds: dict[str, float]


class BundlePredictor:
    """Segments image files as the `configs/inference.json` of a bundle says.

    Taken from that file are `network_def`, `preprocessing`, `inferer` and `postprocessing`, the last without what
    saves files; the arguments below override the ids of the same names.

    Args:
        bundle_dir: folder of the bundle.
        weights: a weights file in place of the bundle's.
        method: the method that the weights must be of; chooses among the bundle's where `weights` is not given.
        size: the size that they must be of, likewise.
        ensemble: take all weights of the bundle, as an ensemble.
        device: "auto", "cpu", "cuda" or what else torch knows.
        amp: "auto", "bf16", "fp16" or "off".
        seed: of the sampling noise.
        steps: number of visited time steps, in place of those of the weights.
        sampler: in place of that of the weights.
        draws: how many segmentations to average, in place of that of the weights.

    Attributes:
        class_names: names of the classes, the background first.
        settings: how it segments, for a report.

    Raises:
        DataError: no such bundle.
        SpecError: settings that do not exist or exclude each other.
        WeightsError: weights that are missing or of another run.
    """

    def __init__(
        self,
        bundle_dir: str | Path,
        *,
        weights: str | Path | None = None,
        method: str | None = None,
        size: str | None = None,
        ensemble: bool = False,
        device: str = "auto",
        amp: str = "auto",
        seed: int = 0,
        steps: int | None = None,
        sampler: str | None = None,
        draws: int | None = None,
    ) -> None:
        if ensemble and (weights is not None or method is not None):
            msg = "an ensemble takes all weights of the bundle; leave out weights and method, or ensemble"
            raise SpecError(msg)
        self.bundle_dir = Path(bundle_dir)
        self.device = resolve_device(device)
        overrides = {
            "bundle_root": str(self.bundle_dir),
            "weights": None if weights is None else str(weights),
            "method": method,
            "size": size,
            "ensemble": ensemble or None,
            "device": str(self.device),
            "amp": amp,
            "seed": seed,
            "steps": steps,
            "sampler": sampler,
            "draws": draws,
        }
        parser = _parse(self.bundle_dir / CONFIG, overrides)
        with _plain_user_errors(), _quiet_readers():
            self.network: Segmenter = parser.get_parsed_content("network_def")
            self.preprocessing: Compose = parser.get_parsed_content("preprocessing")
            self.inferer: Sampling = parser.get_parsed_content("inferer")
            postprocessing: Compose = parser.get_parsed_content("postprocessing")
            self.class_names: list[str] = parser.get_parsed_content("class_names")
            files: str | list[str] = parser.get_parsed_content("weights")
        if not hasattr(self.inferer, "sample"):
            msg = (
                f"the bundle's inferer, a {type(self.inferer).__name__}, cannot sample; use one of medsegdiff.inferers"
            )
            raise SpecError(msg)
        self.postprocessing = Compose([t for t in postprocessing.transforms if not isinstance(t, SaveImaged)])
        self.settings: dict[str, Any] = {
            "members": describe_members(self.network, files),
            "seed": seed,
            "device": str(self.device),
            "amp": amp,
        }

    def predict(self, path: str | Path) -> CasePrediction:
        """Segment one file, or one folder with a DICOM series.

        Raises:
            DataError: the file is unreadable or not what the task expects.
        """
        clock = _Clock(self.device)
        with _plain_user_errors():
            item: Any = {Keys.IMAGE: str(path)}
            reading = _count_readers(self.preprocessing)
            item = self.preprocessing(item, end=reading)
            clock.stop("read")
            item = self.preprocessing(item, start=reading)
            clock.stop("preprocess")
            image: MetaTensor = item[Keys.IMAGE]
            segmentation = self.inferer.sample(image[None].to(self.device), self.network)
            item[Keys.PRED] = MetaTensor(segmentation.probabilities[0].cpu())
            variance = largest_variance(segmentation)
            if variance is not None:
                item[VARIANCE] = MetaTensor(variance[0].cpu())
            clock.stop("sample")
            item = self.postprocessing(item)
            clock.stop("restore")
        meta = image.meta
        return CasePrediction(
            label=_label_map(_restored(item[Keys.PRED], meta)[0]),
            probabilities=_restored(item["probabilities"], meta),
            entropy=_restored(item["entropy"], meta)[0],
            variance=None if variance is None else _restored(item[VARIANCE], meta)[0],
            affine=np.asarray(meta[MetaKeys.ORIGINAL_AFFINE], np.float64),
            stage_seconds=clock.seconds,
        )


def _parse(config: Path, overrides: dict[str, Any]) -> ConfigParser:
    if not config.is_file():
        msg = f"{config} does not exist; give the folder of a bundle, which holds {CONFIG}"
        raise DataError(msg)
    parser = ConfigParser()
    try:
        parser.read_config(str(config))
    except ValueError as error:
        msg = f"{config} cannot be read as a configuration ({error}); mend it, or take the bundle's own"
        raise DataError(msg) from error
    for name, value in overrides.items():
        if value is None:
            continue
        if name not in parser:
            msg = (
                f"{config} has no id {name!r} to set to {value!r}; leave that setting out, or add the id to the bundle"
            )
            raise SpecError(msg)
        parser[name] = value
    return parser


@contextlib.contextmanager
def _plain_user_errors() -> Iterator[None]:
    """Let a user error through as it was raised: MONAI wraps it into others."""
    try:
        yield
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None or user_error is error:
            raise
        raise user_error from error


@contextlib.contextmanager
def _quiet_readers() -> Iterator[None]:
    """Leave out what MONAI 1.6's `LoadImage` says about an optional DICOM decoder that is not used here."""
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            yield
    finally:
        logger.setLevel(level)


class _Clock:
    """Wall time of consecutive stages."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    def stop(self, stage: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what was only queued belongs to the stage that queued it
        now = time.perf_counter()
        self.seconds[stage] = now - self._started
        self._started = now


def _count_readers(preprocessing: Compose) -> int:
    """How many of the first transforms it takes to read the file."""
    return max((n for n, t in enumerate(preprocessing.transforms, start=1) if isinstance(t, LoadImaged)), default=0)


def _restored(result: torch.Tensor, meta: dict[str, Any]) -> NDArray[Any]:
    """A result (C, *S) as an array, once it is known to be on the grid of the file."""
    expected = tuple(int(size) for size in meta[MetaKeys.SPATIAL_SHAPE])
    if tuple(result.shape[1:]) != expected:
        msg = (
            f"the bundle's postprocessing gives a result of shape {tuple(result.shape[1:])} for an image of "
            f"{expected}; it must invert its preprocessing: mend its inference.json"
        )
        raise SpecError(msg)
    return np.asarray(result.as_subclass(torch.Tensor).cpu())


def _label_map(label: NDArray[Any]) -> NDArray[Any]:
    return label.astype(np.uint8 if label.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16)
