"""The deviation between samples as a feature."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.blocks.minibatch_stddev import MinibatchStddev


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (7, 1), (8, 4)])
def test_every_sample_gets_the_mean_deviation_of_its_group(dims, batch, group):
    x = torch.randn(batch, 3, *(4, 5, 2)[:dims])
    out = MinibatchStddev()(x)
    assert out.shape == (batch, 4, *x.shape[2:])
    assert torch.equal(out[:, :3], x)
    for n in range(batch):
        members = x[n % (batch // group) :: batch // group]
        expected = members.std(dim=0, correction=0).mean()
        torch.testing.assert_close(out[n, 3], expected.expand_as(out[n, 3]), atol=2e-4, rtol=1e-4)


def test_samples_that_are_alike_show_it_and_have_finite_slopes():
    x = torch.ones(4, 2, 3, 3, requires_grad=True)
    out = MinibatchStddev()(x)
    assert out[:, 2].max() < 2e-4
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), x)
    assert torch.isfinite(slope).all() and torch.isfinite(second).all()


def test_half_precision_keeps_small_deviations():
    x = (torch.tensor([0.0, 1e-3]).view(2, 1, 1, 1)).half()
    assert MinibatchStddev()(x)[0, 1].item() == pytest.approx(5e-4 + 1e-5, rel=0.1)
