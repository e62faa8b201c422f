"""The losses against MONAI's, torch's and arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from torch.nn import functional as F

from medsegdiff.errors import SpecError
from medsegdiff.losses.segmentation import RegressionLoss, SegmentationLoss, foreground_dice_loss

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (6, 5, 4)
CLASSES = 4


def example(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a label map in which every sample holds every class."""
    label = (torch.arange(math.prod(SIZE[:dims])) % CLASSES).reshape(1, 1, *SIZE[:dims])
    return torch.randn(3, CLASSES, *SIZE[:dims]), torch.cat([label, label.flip(2), label.roll(1, 2)])


def sample_by_sample(loss: object, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return torch.stack([loss(logits[n : n + 1], label[n : n + 1]) for n in range(len(logits))])


@both_dims
def test_cross_entropy_is_torch_s_sample_by_sample(dims):
    logits, label = example(dims)
    expected = F.cross_entropy(logits, label[:, 0], reduction="none").flatten(1).mean(dim=1)
    torch.testing.assert_close(SegmentationLoss(pixel_weight=3.0, dice_weight=0.0)(logits, label), 3 * expected)


@both_dims
@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.5])
def test_focal_loss_is_monai_s_and_its_formula(dims, gamma):
    logits, label = example(dims)
    ours = SegmentationLoss(pixel_term="focal", pixel_weight=1.0, dice_weight=0.0, gamma=gamma)(logits, label)
    p = logits.softmax(dim=1).gather(1, label)
    torch.testing.assert_close(ours, (-((1 - p) ** gamma) * p.log()).flatten(1).mean(dim=1))
    # MONAI averages over the classes too, of which only the true one contributes.
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)
    torch.testing.assert_close(ours, CLASSES * sample_by_sample(theirs, logits, label), atol=1e-5, rtol=1e-4)


@both_dims
def test_dice_is_monai_s_where_every_class_is_present(dims):
    logits, label = example(dims)
    theirs = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=1e-9)
    ours = SegmentationLoss(pixel_weight=0.0)(logits, label)
    torch.testing.assert_close(ours, sample_by_sample(theirs, logits, label), atol=1e-5, rtol=1e-4)


def test_the_paper_weighs_cross_entropy_twenty_and_dice_one():
    logits, label = example(2)
    pixel = SegmentationLoss(pixel_weight=1.0, dice_weight=0.0)(logits, label)
    dice = SegmentationLoss(pixel_weight=0.0, dice_weight=1.0)(logits, label)
    torch.testing.assert_close(SegmentationLoss()(logits, label), 20 * pixel + dice)


def test_dice_by_hand():
    # Class 1 holds two of four voxels: 2 (.5 + .25) / (2 + 1) = .5; class 2 one: 2 (.5) / (1 + 1) = .5.
    p = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.25, 0.0, 0.25], [0.0, 0.25, 0.5, 0.25]]])
    label = torch.tensor([[[1, 1, 2, 0]]])
    assert foreground_dice_loss(p, label).tolist() == pytest.approx([0.5])
    # Class 2 is absent: it counts neither for nor against.
    absent = torch.tensor([[[1, 1, 0, 0]]])
    assert foreground_dice_loss(p, absent).tolist() == pytest.approx([0.5])
    perfect = F.one_hot(label[0], 3).permute(0, 2, 1).float()
    assert foreground_dice_loss(perfect, label).tolist() == pytest.approx([0.0])


def test_a_sample_without_foreground_has_no_dice_term():
    logits, label = example(3)
    label[1] = 0
    losses = SegmentationLoss(pixel_weight=0.0)(logits, label)
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()


def test_one_channel_of_logits_equals_two():
    logit, label = torch.randn(2, 1, 4, 5), torch.randint(2, (2, 1, 4, 5))
    for term in ("cross_entropy", "focal"):
        loss = SegmentationLoss(pixel_term=term)
        torch.testing.assert_close(loss(logit, label), loss(torch.cat([-logit / 2, logit / 2], dim=1), label))
    binary = F.binary_cross_entropy_with_logits(logit, label.float(), reduction="none").flatten(1).mean(dim=1)
    torch.testing.assert_close(SegmentationLoss(pixel_weight=1.0, dice_weight=0.0)(logit, label), binary)


@both_dims
def test_a_sample_s_loss_does_not_depend_on_the_batch(dims):
    logits, label = example(dims)
    loss = SegmentationLoss()
    torch.testing.assert_close(loss(logits, label)[1:2], loss(logits[1:2], label[1:2]))


def test_labels_of_any_type_are_taken_and_half_precision_is_raised():
    logits, label = example(2)
    loss = SegmentationLoss()
    half = loss(logits.bfloat16(), label.to(torch.uint8))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(logits.bfloat16().float(), label))
    torch.testing.assert_close(loss(logits, label.float()), loss(logits, label))


def test_extreme_logits_give_finite_losses_and_gradients():
    logits = (1e4 * torch.randn(2, 3, 8, 8)).requires_grad_()
    for term in ("cross_entropy", "focal"):
        loss = SegmentationLoss(pixel_term=term)(logits, torch.randint(3, (2, 1, 8, 8))).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_a_step_against_the_gradient_lowers_the_loss():
    logits, label = example(2)
    logits.requires_grad_()
    loss = SegmentationLoss()
    before = loss(logits, label).sum()
    (gradient,) = torch.autograd.grad(before, logits)
    assert loss(logits - 0.1 * gradient, label).sum() < before


@both_dims
def test_regression_is_the_mean_square_of_each_sample(dims):
    output, target = torch.randn(2, 3, *SIZE[:dims]), torch.randn(2, 3, *SIZE[:dims])
    expected = torch.stack([F.mse_loss(output[n], target[n]) for n in range(2)])
    torch.testing.assert_close(RegressionLoss()(output, target), expected)
    assert RegressionLoss()(output.bfloat16(), target.bfloat16()).dtype == torch.float32


@both_dims
def test_regression_may_sum_the_squares_of_each_sample_as_the_release_of_segdiff_does(dims):
    output, target = torch.randn(2, 3, *SIZE[:dims]), torch.randn(2, 3, *SIZE[:dims])
    summed = RegressionLoss(reduction="sum")(output, target)
    assert summed.shape == (2,)
    torch.testing.assert_close(summed, RegressionLoss(reduction="mean")(output, target) * 3 * math.prod(SIZE[:dims]))


def test_an_unknown_reduction_is_refused():
    with pytest.raises(SpecError, match="reduction 'none' does not exist; use one of mean, sum"):
        RegressionLoss(reduction="none")


def test_an_unknown_pixel_term_is_refused():
    with pytest.raises(SpecError, match="pixel_term 'bce' does not exist; use one of cross_entropy, focal"):
        SegmentationLoss(pixel_term="bce")
