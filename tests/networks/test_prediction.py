"""What the denoiser's output means."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import PREDICTIONS, build_prediction
from medsegdiff.networks.schedulers import linear_schedule

SCHEDULE = linear_schedule(1001)
SIZE = (4, 3, 2)
both_dims = pytest.mark.parametrize("dims", [2, 3])


def noisy(dims: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_0, noise, t and x_t for t at both ends and in the middle."""
    t = torch.tensor([0, 1, 500, 1000])
    x_0 = OneHotCodec(3).encode(torch.randint(3, (4, 1, *SIZE[:dims])))
    noise = torch.randn_like(x_0)
    return x_0, noise, t, SCHEDULE.add_noise(x_0, noise, t)


@both_dims
@pytest.mark.parametrize(("name", "tolerance"), [("epsilon", 1e-3), ("v", 1e-5)])
def test_the_target_leads_back_to_x_0(name, tolerance, dims):
    prediction = build_prediction(name)
    x_0, noise, t, x_t = noisy(dims)
    target = prediction.target(x_0, noise, t, SCHEDULE)
    # From the noise, x_0 follows by a division by sqrt(abar_T) = .006, which magnifies rounding.
    torch.testing.assert_close(prediction.to_x_0(target, x_t, t, SCHEDULE), x_0, atol=tolerance, rtol=0)


def test_v_is_the_mix_of_noise_and_x_0_that_is_orthogonal_to_x_t():
    x_0, noise, t, _ = noisy(2)
    v = build_prediction("v").target(x_0, noise, t, SCHEDULE)
    for one, step in enumerate(t.tolist()):
        abar = SCHEDULE.alpha_cumprod_at(step)
        torch.testing.assert_close(v[one], abar**0.5 * noise[one] - (1 - abar) ** 0.5 * x_0[one])


@both_dims
def test_logits_become_a_softmax_scaled_to_minus_one_and_one(dims):
    prediction = build_prediction("logits")
    logits = 5 * torch.randn(2, 3, *SIZE[:dims])
    x_0 = prediction.to_x_0(logits, logits, torch.zeros(2), None)
    torch.testing.assert_close(x_0, 2 * logits.softmax(dim=1) - 1)
    torch.testing.assert_close(OneHotCodec(3).probabilities(x_0), logits.softmax(dim=1), atol=1e-5, rtol=1e-4)


def test_one_channel_of_logits_is_a_sigmoid():
    logits = torch.randn(2, 1, 4, 4)
    x_0 = build_prediction("logits").to_x_0(logits, logits, torch.zeros(2), None)
    torch.testing.assert_close(x_0, 2 * logits.sigmoid() - 1)


@pytest.mark.parametrize("name", ["logits", "tanh"])
@pytest.mark.parametrize("channels", [1, 3])
def test_bounded_kinds_stay_within_minus_one_and_one_and_need_no_schedule(name, channels):
    prediction = build_prediction(name)
    output = 100 * torch.randn(2, channels, 8, dtype=torch.bfloat16)
    x_0 = prediction.to_x_0(output, output, torch.zeros(2), None)
    assert x_0.dtype == torch.float32
    assert x_0.min() >= -1 and x_0.max() <= 1
    assert not prediction.needs_schedule


@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_unbounded_kinds_are_clipped_only_where_asked(name):
    x_t, t = torch.full((1, 1, 4), 30.0), torch.tensor([500])
    free = build_prediction(name).to_x_0(torch.zeros_like(x_t), x_t, t, SCHEDULE)
    clipped = build_prediction(name, clip_x_0=True).to_x_0(torch.zeros_like(x_t), x_t, t, SCHEDULE)
    assert (free > 1).all()
    assert (clipped == 1).all()


@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_kinds_that_need_a_schedule_say_so(name):
    prediction = build_prediction(name)
    assert prediction.needs_schedule
    x = torch.zeros(1, 1, 2)
    with pytest.raises(SpecError, match="needs a schedule, got none; use logits or tanh"):
        prediction.to_x_0(x, x, torch.tensor([0]), None)


def test_only_logits_classify():
    assert [name for name in PREDICTIONS if build_prediction(name).classifies] == ["logits"]


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match="prediction 'x0' does not exist; use one of logits, tanh, epsilon, v"):
        build_prediction("x0")


def test_logits_have_no_target_for_a_squared_loss():
    x_0, noise, t, _ = noisy(2)
    with pytest.raises(SpecError, match="LogitsPrediction has no target for a squared loss"):
        build_prediction("logits").target(x_0, noise, t, SCHEDULE)


@pytest.mark.parametrize("name", ["tanh", "epsilon", "v"])
def test_an_output_that_meets_its_target_is_x_0(name):
    prediction = build_prediction(name)
    x_0, noise, t, x_t = noisy(2)
    target = prediction.target(0.9 * x_0, noise, t, SCHEDULE)
    output = target.atanh() if name == "tanh" else target
    torch.testing.assert_close(prediction.regressed(output), target)
    if name == "tanh":
        torch.testing.assert_close(prediction.to_x_0(output, x_t, t, SCHEDULE), 0.9 * x_0)


@pytest.mark.parametrize("name", ["logits", "tanh"])
def test_a_kind_that_is_bounded_by_itself_has_nothing_to_clip(name):
    with pytest.raises(SpecError, match=f"prediction '{name}' has no option 'clip_x_0'"):
        build_prediction(name, clip_x_0=True)
