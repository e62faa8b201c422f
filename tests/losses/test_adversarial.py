"""Losses of discriminator and generator, in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from medsegdiff.losses.adversarial import discriminator_loss, generator_loss, r1_penalty


def test_a_discriminator_that_cannot_tell_loses_twice_log_two():
    loss = discriminator_loss(torch.zeros(3), torch.zeros(3))
    torch.testing.assert_close(loss, torch.full((3,), 2 * math.log(2)))


def test_it_is_the_cross_entropy_of_real_and_fake():
    real, fake = torch.randn(2, 5)
    entropy = torch.nn.BCEWithLogitsLoss(reduction="none")
    expected = entropy(real, torch.ones(5)) + entropy(fake, torch.zeros(5))
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), entropy(fake, torch.ones(5)))


def test_each_side_pulls_its_own_way():
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    discriminator_loss(real, fake).sum().backward()
    assert (real.grad.item(), fake.grad.item()) == pytest.approx((-0.5, 0.5))
    mislead = torch.zeros(1, requires_grad=True)
    generator_loss(mislead).sum().backward()
    assert mislead.grad.item() == pytest.approx(-0.5)


def test_large_logits_and_half_types_stay_finite():
    logits = torch.tensor([1e4, -1e4])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        loss = discriminator_loss(logits.to(dtype), -logits.to(dtype))
        assert loss.dtype == torch.float32
        assert loss.tolist() == pytest.approx([0, 2e4], rel=1e-2)


@pytest.mark.parametrize("gamma", [1.0, 0.2])
@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
def test_r1_of_a_linear_discriminator_is_the_square_of_its_weights(size, gamma):
    weight = torch.randn(1, 2, *size, requires_grad=True)
    real = torch.randn(3, 2, *size, requires_grad=True)
    penalty = r1_penalty((weight * real).flatten(1).sum(dim=1), real, gamma=gamma)
    square = weight.detach().square().sum().item()
    assert penalty.tolist() == pytest.approx([gamma / 2 * square] * 3, rel=1e-5)
    penalty.mean().backward()
    torch.testing.assert_close(weight.grad, gamma * weight.detach())


def test_r1_of_a_parabola_grows_with_the_sample():
    scale = torch.tensor(3.0, requires_grad=True)
    real = torch.tensor([[1.0], [2.0]], requires_grad=True)
    penalty = r1_penalty((scale / 2 * real.square()).squeeze(1), real)
    torch.testing.assert_close(penalty, torch.tensor([4.5, 18.0]))  # (3 x)^2 / 2
    penalty.sum().backward()
    assert scale.grad.item() == pytest.approx(15.0)  # 3 (1 + 4)
