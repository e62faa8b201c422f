"""Validation by sampling, with the best weights of each sampler kept."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.engines import Evaluator

from medsegdiff.engines.trainer import DiffusionTrainer
from medsegdiff.errors import SpecError
from medsegdiff.methods import RunSpec, save_weights
from medsegdiff.networks.schedulers import get_sampler
from medsegdiff.networks.segmenter import DiffusionSegmenter

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "model.pt"


class SamplerValidation:
    """Runs an evaluator after every so many epochs and keeps the best weights, judged on the validation split.

    With several samplers the evaluator runs once for each, and each keeps its own best weights, as Fu et al. (2023,
    section 5.3) choose the checkpoint for each sampler on its own: the run's own sampler's in `model.pt`, another's in
    `model_SAMPLER.pt`. Weights of equal score replace the earlier ones. The early stop watches the run's own sampler.

    Args:
        validator: an evaluator over the validation split whose network is `network`.
        network: whose weights are validated and kept: the averaged one where there is an EMA.
        run_dir: folder of the run.
        spec: what the run trains; its sampler is the run's own.
        samplers: a further sampler to validate, or several.
        metric: name in the evaluator's metrics, the larger the better.
        interval: epochs between two validations; the last epoch is always validated.
        draws: segmentations averaged in validation, whatever the run's own number: its 30 draws of SegDiff, say, would
            make validation cost more than training.
        patience: validations without improvement after which training stops; None for no early stop.
        min_delta: what counts as an improvement for the early stop.

    Raises:
        SpecError: samplers that do not exist, further ones for a supervised network, the run's own among them; a
            patience or a number of draws below 1.
    """

    def __init__(
        self,
        validator: Evaluator,
        network: DiffusionSegmenter,
        run_dir: str | os.PathLike[str],
        spec: RunSpec,
        *,
        samplers: str | Sequence[str] = (),
        metric: str = "val_mean_dice",
        interval: int = 1,
        draws: int = 1,
        patience: int | None = None,
        min_delta: float = 1e-4,
    ) -> None:
        samplers = (samplers,) if isinstance(samplers, str) else tuple(samplers)
        for name in samplers:
            get_sampler(name)
        if patience is not None and patience < 1:
            msg = f"patience is {patience}; give at least 1 validation, or leave it out for no early stop"
            raise SpecError(msg)
        if draws < 1:
            msg = f"validation was asked for with {draws} draws; give at least 1"
            raise SpecError(msg)
        if samplers and (network.supervised or spec.sampler in samplers):
            msg = (
                f"got further samplers {list(samplers)} for method {spec.method!r}, whose own is {spec.sampler!r}; "
                "give those beside its own, and none for a supervised network"
            )
            raise SpecError(msg)
        self.validator = validator
        self.network = network
        self.run_dir = Path(run_dir)
        self.spec = spec
        self.samplers = (spec.sampler, *samplers)
        self.metric = metric
        self.interval = interval
        self.draws = draws
        self.best = dict.fromkeys(self.samplers, float("-inf"))
        self._patience = patience
        self._min_delta = min_delta
        self._early_stop: EarlyStopping | None = None

    def attach(self, engine: DiffusionTrainer) -> None:
        """Attach to a trainer."""
        if self._patience is not None:
            # The fourth argument by place: ignite 0.5.5 renamed it.
            self._early_stop = EarlyStopping(self._patience, self._score_or_lowest, engine, self._min_delta)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: DiffusionTrainer) -> None:
        """Validate where the turn has come."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        for sampler in self.samplers:
            self.network.set_sampling(sampler=sampler, draws=self.draws)
            self.validator.run(epoch)
            score = self._score(self.validator)
            logger.info(
                "epoch %d of %d: %s %.4f%s",
                epoch,
                engine.state.max_epochs,
                self.metric,
                score,
                f" ({sampler})" if len(self.samplers) > 1 else "",
            )
            self._keep_best(sampler, score)
            if sampler == self.spec.sampler and self._early_stop is not None:
                self._early_stop(self.validator)
        spec = self.spec
        self.network.set_sampling(sampler=spec.sampler, sampler_options=spec.sampler_options, draws=spec.draws)

    def weights_path(self, sampler: str) -> Path:
        """Where the best weights of a sampler are kept."""
        return self.run_dir / WEIGHTS_NAME if sampler == self.spec.sampler else weights_path(self.run_dir, sampler)

    def state_dict(self) -> dict[str, Any]:
        """Best scores and the early stop's counters, for the checkpoint."""
        return {
            "best": dict(self.best),
            "early_stop": None if self._early_stop is None else dict(self._early_stop.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; call it once attached."""
        self.best.update(state["best"])
        if self._early_stop is not None and state["early_stop"] is not None:
            self._early_stop.load_state_dict(state["early_stop"])
            if self._early_stop.counter >= self._early_stop.patience:
                self._early_stop.trainer.terminate()  # the run had come to its end

    def _score(self, validator: Engine) -> float:
        return float(validator.state.metrics[self.metric])

    def _score_or_lowest(self, validator: Engine) -> float:
        # A score that is not a number would pass for an improvement, and no later one could be better.
        score = self._score(validator)
        return score if not math.isnan(score) else float("-inf")

    def _keep_best(self, sampler: str, score: float) -> None:
        # Not "score < best": a score that is not a number never counts as the best.
        if not score >= self.best[sampler]:
            return
        self.best[sampler] = score
        if self.validator.state.rank == 0:
            own = sampler == self.spec.sampler
            spec = self.spec if own else self.spec.replace(sampler=sampler, sampler_options={})
            path = self.weights_path(sampler)
            save_weights(self.network.state_dict(), spec, path)
            logger.info("best weights so far: %s", path)


def weights_path(run_dir: Path, sampler: str) -> Path:
    """Where the best weights of a sampler that is not the run's own are kept."""
    return run_dir / f"model_{sampler.replace('+', 'p')}.pt"
