"""From an image file to a label map on the same grid, by a bundle."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged
from monai.utils.enums import CommonKeys as Keys
from monai.utils.enums import MetaKeys
from numpy.typing import NDArray

from medsegdiff.data.bundle_config import INFERENCE_CONFIG, read_bundle_config
from medsegdiff.errors import MedSegDiffError, SpecError, one_line, plain_user_errors
from medsegdiff.inferers.describe import describe_fusion, describe_members, describe_model
from medsegdiff.inferers.loading import Weights, resolve_device
from medsegdiff.inferers.sampling import VARIANCE, Sampling
from medsegdiff.inferers.slicewise import Segmenter
from medsegdiff.transforms.restore import ENTROPY, PROBABILITIES, Restored, RestoredClasses

CONFIG = INFERENCE_CONFIG


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """The result of one case, on the grid of its file.

    Probabilities come back to the grid when they are read: one class by `probability` or `class_maps`, in the memory of
    one map; all by `probabilities`, which keeps them.

    Attributes:
        label: class of every voxel (*S), uint8, or uint16 for more than 256 classes.
        entropy: of the probabilities (*S), from 0 (one class is certain) to 1 (all are equal); None where no
            uncertainty was asked for.
        variance: over draws, see `Segmentation` (*S); None likewise, and for one draw.
        affine: (4, 4), from voxel index to millimetres in RAS; the identity for pictures.
        stage_seconds: wall time of the stages "read", "preprocess", "sample" and "restore".
        classes: the probability of each class (1, *S), restored when it is read.
        steps: how many steps each group of draws took, see `Segmentation`.
    """

    label: NDArray[Any]
    entropy: NDArray[np.float32] | None
    variance: NDArray[np.float32] | None
    affine: NDArray[np.float64]
    stage_seconds: dict[str, float]
    classes: Sequence[torch.Tensor] = field(repr=False)
    steps: tuple[int, ...] = ()

    def probability(self, k: int) -> NDArray[np.float32]:
        """The probability of class k (*S), brought back to the grid by linear interpolation."""
        return _on_grid(self.classes[k], self.label.shape)

    @property
    def class_maps(self) -> Sequence[NDArray[np.float32]]:
        """The probability of each class (*S), restored when it is read and not kept."""
        return _ClassMaps(self)

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Those of all classes (K, *S), float32: as many maps at once as there are classes."""
        restored = np.empty((len(self.classes), *self.label.shape), np.float32)
        for k in range(len(self.classes)):
            restored[k] = self.probability(k)
        return restored


class _ClassMaps(Sequence[Any]):
    def __init__(self, result: CasePrediction) -> None:
        self.result = result

    def __len__(self) -> int:
        return len(self.result.classes)

    def __getitem__(self, k: Any) -> Any:
        return self.result.probability(range(len(self))[k])


class BundlePredictor:
    """Segments image files as the `configs/inference.json` of a bundle says.

    Taken from that file are `network_def`, `preprocessing`, `inferer` and `postprocessing`, the last without what
    saves files; the arguments below override the ids of the same names.

    Args:
        bundle_dir: folder of the bundle.
        weights: a weights file in place of the bundle's; several, such as those of folds, make an ensemble.
        method: the method that the weights must be of; chooses among the bundle's where `weights` is not given.
        size: the size that they must be of, likewise.
        ensemble: take all weights of the bundle, as an ensemble.
        device: "auto", "cpu", "cuda" or what else torch knows.
        amp: "auto", "bf16", "fp16" or "off".
        seed: of the sampling noise.
        steps: number of visited time steps, in place of those of the weights.
        sampler: in place of that of the weights.
        draws: how many segmentations to average, in place of that of the weights.
        fusion: how to fuse the members of an ensemble, or the draws of a single network: "mean", "majority" or
            "staple", see `load_network`.
        fuse_draws: whether to fuse the draws of an ensemble's members one by one, see `load_network`.
        uncertainty: give entropy, and variance where there are several draws; each takes a float32 map of the grid.
        settings: further ids of `inference.json` to set, such as `{"overlap": 0.5, "memory_budget": 2e9}`.

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
        weights: Weights | Sequence[Weights] | None = None,
        method: str | None = None,
        size: str | None = None,
        ensemble: bool = False,
        device: str = "auto",
        amp: str = "auto",
        seed: int = 0,
        steps: int | None = None,
        sampler: str | None = None,
        draws: int | None = None,
        fusion: str | None = None,
        fuse_draws: bool | None = None,
        uncertainty: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if ensemble and (weights is not None or method is not None):
            msg = "an ensemble takes all weights of the bundle; leave out weights and method, or ensemble"
            raise SpecError(msg)
        self.bundle_dir = Path(bundle_dir)
        self.device = resolve_device(device)
        self.uncertainty = uncertainty
        overrides = {
            "bundle_root": str(self.bundle_dir),
            "weights": None if weights is None else _paths(weights),
            "method": method,
            "size": size,
            "ensemble": ensemble or None,
            "device": str(self.device),
            "amp": amp,
            "seed": seed,
            "steps": steps,
            "sampler": sampler,
            "draws": draws,
            "fusion": fusion,
            "fuse_draws": fuse_draws,
            "uncertainty": uncertainty,
        }
        further = dict(settings or {})
        if named := sorted(further.keys() & overrides.keys()):
            msg = f"settings holds {', '.join(named)}, which is an argument of its own; give it as that"
            raise SpecError(msg)
        overrides = {name: value for name, value in overrides.items() if value is not None} | further
        parser = read_bundle_config(self.bundle_dir, CONFIG, overrides)
        with _blaming(further), plain_user_errors(), _quiet_readers():
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
            **describe_fusion(self.network),
            "seed": seed,
            "device": str(self.device),
            "amp": amp,
            **({"settings": further} if further else {}),
        }

    @functools.cached_property
    def model(self) -> dict[str, Any]:
        """Which model it is, see `describe_model`."""
        return describe_model(self.bundle_dir, self.settings)

    def predict(self, path: str | Path | Sequence[str | Path]) -> CasePrediction:
        """Segment one file, or one folder with a DICOM series, or several files that are the channels of one image.

        Raises:
            DataError: the file is unreadable or not what the task expects.
        """
        clock = _Clock(self.device)
        with plain_user_errors():
            item: Any = {Keys.IMAGE: _paths(path)}
            reading = _count_readers(self.preprocessing)
            item = self.preprocessing(item, end=reading)
            clock.stop("read")
            item = self.preprocessing(item, start=reading)
            clock.stop("preprocess")
            image: MetaTensor = item[Keys.IMAGE]
            segmentation = self.inferer.sample(image[None].to(self.device), self.network)
            item[Keys.PRED] = MetaTensor(segmentation.probabilities[0].cpu())
            if self.uncertainty and segmentation.draws > 1:
                item[VARIANCE] = MetaTensor(segmentation.variance[0].cpu())
            steps = segmentation.steps
            del segmentation  # and with it a map a class
            clock.stop("sample")
            classes = self._restored_classes(item)
            item = self.postprocessing(item)
            clock.stop("restore")
        grid = tuple(int(size) for size in image.meta[MetaKeys.SPATIAL_SHAPE])
        label = _label_map(_on_grid(item[Keys.PRED], grid))
        if classes is None and PROBABILITIES not in item:
            msg = "the bundle's postprocessing gives no probabilities; take medsegdiff.transforms.restore.Restored"
            raise SpecError(msg)
        maps = {name: _on_grid(item[name], grid) for name in (ENTROPY, VARIANCE) if self.uncertainty and name in item}
        return CasePrediction(
            label=label,
            entropy=maps.get(ENTROPY),
            variance=maps.get(VARIANCE),
            affine=np.asarray(image.meta[MetaKeys.ORIGINAL_AFFINE], np.float64),
            stage_seconds=clock.seconds,
            classes=item[PROBABILITIES] if classes is None else classes,
            steps=steps,
        )

    def _restored_classes(self, item: dict[Hashable, Any]) -> RestoredClasses | None:
        """The probabilities of an item, to be restored when read; None where the bundle restores them otherwise."""
        restored = next((t for t in self.postprocessing.flatten().transforms if isinstance(t, Restored)), None)
        return None if restored is None else restored.classes(item)


@contextlib.contextmanager
def _blaming(settings: Mapping[str, Any]) -> Iterator[None]:
    """Take what goes wrong for the fault of the user's settings, where there are any."""
    try:
        yield
    except MedSegDiffError:
        raise
    except Exception as error:
        if not settings:
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        msg = f"the bundle cannot be used with {given} ({one_line(cause)}); see {CONFIG} for what it sets itself"
        raise SpecError(msg) from error


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


def _paths(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> str | list[str]:
    return str(given) if isinstance(given, (str, os.PathLike)) else [str(file) for file in given]


def _on_grid(result: torch.Tensor, grid: tuple[int, ...]) -> NDArray[Any]:
    """A map (*S) or (1, *S) as an array (*S), once it is known to be on the grid of the file."""
    if tuple(result.shape) not in (grid, (1, *grid)):
        msg = (
            f"the bundle's postprocessing gives a result of shape {tuple(result.shape)} for an image of {grid}; "
            "it must make one label map and invert its preprocessing: mend its inference.json"
        )
        raise SpecError(msg)
    return np.asarray(result.as_subclass(torch.Tensor).cpu()).reshape(grid)


def _label_map(label: NDArray[Any]) -> NDArray[Any]:
    return label.astype(np.uint8 if label.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16)
