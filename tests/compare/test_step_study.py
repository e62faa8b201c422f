"""The study of sampling steps, on networks of two lines whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.compare.step_study import foreground_dice, study_steps
from medsegdiff.errors import SpecError
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Reads its logits off the image, or off the noisy mask."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def encode(self, image):
        return image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        return 50 * (condition if self.source == "image" else x_t)


def segmenter(source: str, **options) -> DiffusionSegmenter:
    return DiffusionSegmenter(
        Fixed(source),
        codec=OneHotCodec(3),
        prediction=build_prediction("logits"),
        schedule=linear_schedule(100),
        steps=4,
        **options,
    )


def labelled_case(dims: int) -> dict:
    label = torch.zeros(1, *[8] * dims, dtype=torch.long)
    label[:, 2:5], label[:, 5:7] = 1, 2
    return {"image": OneHotCodec(3).encode(label[None])[0], "label": label, "case": "a"}


@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_that_reads_the_image_is_right_at_every_step_from_truth_and_from_noise(dims):
    [study] = study_steps(segmenter("image", draws=2), [labelled_case(dims)], probe_t=20, device=CPU)
    assert study.case == "a"
    assert study.per_step == [1.0] * 4
    assert study.from_truth == study.from_noise == 1.0


@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_that_reads_the_noisy_mask_is_right_from_the_truth_alone(dims):
    [study] = study_steps(segmenter("mask"), [labelled_case(dims)], probe_t=0, device=CPU)
    assert study.from_truth == 1.0
    assert study.from_noise < 0.6
    assert study.per_step[0] < 0.6


class WithLatent(Fixed):
    latent_dim = 5

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        assert z.shape == (x_t.shape[0], self.latent_dim)
        return super().forward(x_t, t, condition)


def test_a_network_with_a_latent_is_given_one():
    latent = segmenter("mask")
    latent.denoiser = WithLatent("mask")
    [study] = study_steps(latent, [labelled_case(2)], probe_t=0, device=CPU)
    [same] = study_steps(segmenter("mask"), [labelled_case(2)], probe_t=0, device=CPU)
    assert study == same


def test_the_study_does_not_depend_on_the_order_of_the_cases():
    cases = [labelled_case(2), {**labelled_case(2), "case": "b"}]
    forward = study_steps(segmenter("mask"), cases, probe_t=50, device=CPU)
    backward = study_steps(segmenter("mask"), cases[::-1], probe_t=50, device=CPU)
    assert forward == backward[::-1]
    assert forward[0].from_noise != forward[1].from_noise


def test_truth_and_noise_are_compared_at_a_quarter_of_all_times_by_default():
    [study] = study_steps(segmenter("mask"), [labelled_case(2)], probe_t=None, device=CPU)
    assert study == study_steps(segmenter("mask"), [labelled_case(2)], probe_t=25, device=CPU)[0]


def test_dice_by_hand():
    truth = torch.tensor([[[0, 1, 1, 2]]])
    guess = torch.tensor([[0, 1, 2, 2]])
    probabilities = nn.functional.one_hot(guess, 4).permute(0, 2, 1).float()
    # class 1: 2*1/(1+2); class 2: 2*1/(2+1); class 3 is in neither and left out
    assert foreground_dice(probabilities, truth).item() == pytest.approx(2 / 3)


def test_bad_input():
    supervised = DiffusionSegmenter(Fixed("image"), codec=OneHotCodec(3), prediction=build_prediction("logits"))
    with pytest.raises(SpecError, match="no steps to study"):
        study_steps(supervised, [labelled_case(2)], probe_t=0, device=CPU)
    with pytest.raises(SpecError, match="timestep 100 does not exist"):
        study_steps(segmenter("image"), [labelled_case(2)], probe_t=100, device=CPU)
