"""One iteration of cDAL's trainer with networks of two lines, on masks so large that their noise can be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.engines.adversarial_trainer import AdversarialDiffusionTrainer
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import cdal_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

SCALARS = ("loss", "reconstruction_loss", "generator_loss", "discriminator_loss", "r1_penalty", "attention")
GUESS = 0.5
MAP = 0.25
TOLERANCE = 4 / (64 * 64 * 3) ** 0.5


class Recorder(nn.Module):
    """A generator that always predicts `GUESS` and remembers what it was shown."""

    spatial_dims, image_channels = 2, 1

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls: list[dict[str, Any]] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        self.calls.append({"x_t": x_t, "t": t, "z": z, "gradient": torch.is_grad_enabled()})
        return torch.atanh(torch.tensor(GUESS)) + self.weight * x_t


class Judge(nn.Module):
    """A discriminator that is the mean of x_prev times a weight, with a constant map, and remembers."""

    factors = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[torch.Tensor, ...]] = []
        self.attended: list[tuple[torch.Tensor, ...]] = []

    def forward(self, x_prev, x_t, t):
        self.calls.append((x_prev.detach(), x_t, t))
        return self.weight * x_prev.flatten(1).mean(dim=1)

    def features(self, x_prev, x_t, t, *, down_to):
        self.attended.append((x_prev, x_t, t))
        half = x_t[..., ::2, ::2][:, :1]
        return {2: torch.cat([0 * half, 0 * half + 2 * MAP], dim=1)}


@pytest.fixture
def step() -> Callable[..., tuple[Recorder, Judge, torch.Tensor, dict[str, Any]]]:
    def run(latent_dim: int = 3, **options: Any) -> tuple[Recorder, Judge, torch.Tensor, dict[str, Any]]:
        codec, recorder, judge = OneHotCodec(3), Recorder(latent_dim), Judge()
        segmenter = DiffusionSegmenter(
            recorder, codec=codec, prediction=build_prediction("tanh"), schedule=cdal_schedule(4), steps=4
        )
        label = torch.randint(3, (4, 1, 64, 64))
        batch = {"image": torch.randn(4, 1, 64, 64), "label": label, "sample": list("abcd")}
        trainer = AdversarialDiffusionTrainer(
            "cpu",
            1,
            [batch],
            segmenter,
            torch.optim.SGD(recorder.parameters(), 0.0),
            judge,
            torch.optim.SGD(judge.parameters(), 0.0),
            **{"attention_layer": "1/2", **options},
        )
        trainer.run()
        scalars = {name: float(trainer.state.output[0][name]) for name in SCALARS}
        return recorder, judge, codec.encode(label), scalars

    return run


@pytest.mark.parametrize("attention", [True, False])
def test_the_generator_learns_from_attended_masks_and_is_judged_on_plain_ones(step, attention):
    recorder, _, x_0, scalars = step(attention=attention)
    judged, learned = recorder.calls
    assert (judged["gradient"], learned["gradient"]) == (False, True)
    assert torch.equal(judged["t"], learned["t"])
    assert scalars["attention"] == pytest.approx(MAP if attention else 1)
    schedule = cdal_schedule(4)
    for call, share in ((judged, 1.0), (learned, MAP if attention else 1.0)):
        signal, spread = schedule.scales(call["t"], x_0)
        noise = (call["x_t"] - signal * share * x_0) / spread
        for one, mask in zip(noise, x_0, strict=True):
            assert one.std().item() == pytest.approx(1, rel=0.05)
            assert abs((one * mask).mean().item()) < TOLERANCE
        call["noise"] = noise
    both = torch.stack([judged["noise"].flatten(), learned["noise"].flatten()])
    assert abs(torch.corrcoef(both)[0, 1].item()) < TOLERANCE


def test_the_loss_is_the_squared_error_to_the_mask_that_was_not_attended(step):
    _, _, x_0, scalars = step()
    expected = (x_0 - GUESS).square().mean().item()
    assert scalars["loss"] == pytest.approx(expected) == pytest.approx(scalars["reconstruction_loss"])


def test_another_reconstruction_loss_may_be_given(step):
    _, _, x_0, scalars = step(reconstruction_loss=lambda guess, truth: (guess - truth).abs().flatten(1).mean(dim=1))
    assert scalars["loss"] == pytest.approx((x_0 - GUESS).abs().mean().item())


def test_the_discriminator_sees_the_pair_and_what_the_guess_makes_of_it(step):
    recorder, judge, x_0, scalars = step(attention=True)
    (real, x_t, t), (fake, x_t_again, _) = judge.calls
    assert torch.equal(x_t, x_t_again) and torch.equal(x_t, recorder.calls[0]["x_t"])
    assert torch.equal(judge.attended[0][0], real) and torch.equal(judge.attended[0][1], x_t)
    schedule = cdal_schedule(4)
    for n, step_t in enumerate(t.tolist()):
        abar = schedule.alpha_cumprod_at(step_t - 1)
        rest = real[n] - abar**0.5 * x_0[n]
        assert rest.std().item() == pytest.approx((1 - abar) ** 0.5, rel=0.05, abs=1e-6)
        posterior = schedule.posterior(step_t, step_t - 1)
        rest = fake[n] - posterior.x_0 * GUESS - posterior.x_t * x_t[n]
        assert rest.std().item() == pytest.approx(posterior.variance**0.5, rel=0.05, abs=1e-6)
    logits = [mask.flatten(1).mean(dim=1) for mask in (real, fake)]
    softplus = nn.functional.softplus
    expected = (softplus(-logits[0]) + softplus(logits[1])).mean().item()
    assert scalars["discriminator_loss"] == pytest.approx(expected)
    # Linear in x_prev, with a weight of one over the number of its voxels.
    assert scalars["r1_penalty"] == pytest.approx(0.5 / (64 * 64 * 3), rel=1e-4)


def test_every_call_has_a_latent_of_its_own(step):
    recorder, *_ = step(latent_dim=500)
    judged, learned = (call["z"] for call in recorder.calls)
    assert judged.shape == learned.shape == (4, 500)
    rows = torch.cat([judged, learned])
    assert (torch.corrcoef(rows) - torch.eye(8)).abs().max() < 5 / 500**0.5
    assert rows.std().item() == pytest.approx(1, rel=0.05)


def test_a_generator_without_latent_is_given_none(step):
    recorder, *_ = step(latent_dim=0)
    assert [call["z"] for call in recorder.calls] == [None, None]


def test_algorithm_1_uses_one_noise_and_one_latent_throughout(step):
    recorder, judge, x_0, _ = step(real_pair="algorithm_1", fake_pair="algorithm_1", attention=False)
    judged, learned = recorder.calls
    assert torch.equal(judged["x_t"], learned["x_t"]) and torch.equal(judged["z"], learned["z"])
    schedule, t = cdal_schedule(4), judged["t"]
    signal, spread = schedule.scales(t, x_0)
    eps = (judged["x_t"] - signal * x_0) / spread
    (real, *_), (fake, *_) = judge.calls
    torch.testing.assert_close(real, schedule.add_noise(x_0, eps, t - 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fake, schedule.add_noise(0 * x_0 + GUESS, eps, t - 1), atol=1e-4, rtol=1e-4)


def test_the_adversarial_term_is_judged_beside_the_plain_mask(step):
    recorder, judge, _, scalars = step(adversarial_weight=1.0)
    *_, (fake, x_t, _) = judge.calls
    assert len(judge.calls) == 3
    assert torch.equal(x_t, recorder.calls[0]["x_t"])
    logits = fake.flatten(1).mean(dim=1)
    assert scalars["generator_loss"] == pytest.approx(nn.functional.softplus(-logits).mean().item())
