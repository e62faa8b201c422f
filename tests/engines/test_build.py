"""One set of arguments makes the trainer of every method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from medsegdiff.data.keyed_dataset import KeyedCacheDataset, keyed_loader
from medsegdiff.engines.adversarial_trainer import AdversarialDiffusionTrainer
from medsegdiff.engines.build import build_trainer
from medsegdiff.engines.learning_rate import warmup_cosine
from medsegdiff.engines.trainer import DiffusionTrainer
from medsegdiff.errors import SpecError
from medsegdiff.methods import RunSpec, build_segmenter

NETWORKS = {
    "recycling": {"channels": [8, 8], "num_res_blocks": 0, "num_heads": 2, "time_dim": 8},
    "cdal": {
        "channels": [8, 8],
        "num_res_blocks": 1,
        "attention_levels": [],
        "encoder_blocks": 1,
        "latent_dim": 4,
        "style_dim": 8,
    },
}
JUDGE = {"channels": [8, 8], "time_dim": 8}


@pytest.fixture
def build(training_items) -> Callable[..., Any]:
    def make(method: str, *, task: str = "test", **options: Any) -> Any:
        spec = RunSpec(
            task=task,
            method=method,
            size="small",
            spatial_dims=2,
            in_channels=1,
            class_names=["background", "first", "second"],
            roi_size=[8, 8],
            options=NETWORKS[method],
            steps=2,
        )
        segmenter = build_segmenter(spec)
        loader = keyed_loader(KeyedCacheDataset(training_items(4), []), batch_size=2)
        optimizer = torch.optim.SGD(segmenter.parameters(), lr=0.01)
        return build_trainer(spec, "cpu", 1, loader, segmenter, optimizer, **options)

    return make


def test_a_method_with_one_network_gets_the_diffusion_trainer(build):
    trainer = build("recycling", adversarial={"attention": False}, accumulation_steps=2, seed=3)
    assert isinstance(trainer, DiffusionTrainer)
    assert (trainer.accumulation_steps, trainer.seed) == (2, 3)
    trainer.run()


def test_cdal_gets_a_discriminator_with_an_optimiser_of_its_own(build):
    adversarial = {"discriminator": JUDGE, "discriminator_learning_rate": 0.003, "attention_layer": "1/2"}
    trainer = build("cdal", adversarial=adversarial, inferer=None, time_sampler=None)
    assert isinstance(trainer, AdversarialDiffusionTrainer)
    assert [group["lr"] for group in trainer.discriminator_optimizer.param_groups] == [0.003]
    before = [parameter.clone() for parameter in trainer.discriminator.parameters()]
    trainer.run()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))


def test_the_attention_layer_is_that_of_the_paper_for_the_task(build):
    judge = {"discriminator": {"channels": [8] * 5, "time_dim": 8}}
    assert build("cdal", task="monuseg", adversarial=judge).attention_layer == "1/8"
    assert build("cdal", task="cxr", adversarial=judge).attention_layer == "1/16"


def test_words_settings_left_open_and_a_layer_that_nothing_reads_are_understood(build):
    judge = {"discriminator": {"channels": [8] * 5, "time_dim": 8}}
    trainer = build("cdal", task="monuseg", adversarial=judge | {"attention_layer": None, "max_grad_norm": 2.0})
    assert (trainer.attention_layer, trainer.max_grad_norm) == ("1/8", 2.0)
    unread = {"discriminator": JUDGE, "attention": "false", "attention_layer": "1/64"}
    assert build("cdal", adversarial=unread, max_grad_norm=3.0).attention is False


@pytest.mark.parametrize("method", ["recycling", "cdal"])
def test_every_optimiser_gets_its_schedule(build, method):
    adversarial = {"discriminator": JUDGE, "attention_layer": "1/2"}
    trainer = build(method, adversarial=adversarial, schedule_rate=partial(warmup_cosine, total_steps=4))
    states = trainer.stateful_objects()
    names = {"lr_scheduler", "discriminator_lr_scheduler"} if method == "cdal" else {"lr_scheduler"}
    assert names <= set(states)
    trainer.run()
    assert {states[name].last_epoch for name in names} == {2}


def test_the_discriminator_starts_from_the_seed_of_the_run(build):
    def weights(seed: int) -> torch.Tensor:
        trainer = build("cdal", seed=seed, adversarial={"discriminator": JUDGE, "attention_layer": "1/2"})
        return torch.cat([parameter.flatten() for parameter in trainer.discriminator.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulation_steps": 2}, "method 'cdal' has no accumulation_steps"),
        ({"first_pass": "ema"}, "method 'cdal' has no first_pass"),
        ({"adversarial": {"atention": False}}, "no option 'atention'; .*attention_layer.*discriminator_learning_rate"),
        ({"adversarial": {"fake_pair": "prior"}}, "fake_pair 'prior' does not exist"),
        ({"adversarial": {"attention": "no"}}, "attention is 'no'; use true or false"),
        ({"time_sampler_options": {"a": 1}}, "method 'cdal' has no time_sampler_options"),
        ({"adversarial": {"attention_layer": "1/64"}}, "no layer '1/64'; use one of 1/1 "),
    ],
)
def test_what_cdal_does_not_have_is_refused(build, options, message):
    with pytest.raises(SpecError, match=message):
        build("cdal", **options)
