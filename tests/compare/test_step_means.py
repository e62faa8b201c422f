"""Means over draws, step by step, of whole images and of slices."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.compare.step_means import StepMeans
from medsegdiff.inferers.slicewise import SlicewiseSegmenter
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.schedulers import SamplerStep
from medsegdiff.networks.segmenter import SegmenterStep


def seen(x_0, index, draws):
    step = SamplerStep(index=index, t=5, t_prev=4, x_t=x_0, x_0=x_0)
    return SegmenterStep(step, draws, OneHotCodec(3))


def masks(count, size, seed=0):
    """x_0 of a network that is sure: one-hot in ±1."""
    labels = torch.randint(3, (count, 1, *size), generator=torch.Generator().manual_seed(seed))
    return OneHotCodec(3).encode(labels)


@pytest.mark.parametrize("size", [(5, 4), (4, 3, 2)])
def test_groups_of_draws_add_up(size):
    x_0 = masks(5, size)
    means = StepMeans(None, size, steps=(2,), draws=2)
    for first, last in ((0, 2), (2, 4), (4, 5)):
        means(seen(x_0[first:last], 0, range(first, last)))
        means(seen(x_0[first:last], 1, range(first, last)))

    assert list(means.means) == [2]
    wanted = OneHotCodec(3).probabilities(x_0)
    torch.testing.assert_close(means.means[2], wanted.mean(dim=0))
    torch.testing.assert_close(torch.stack(means.draws), wanted)


def test_parts_of_an_image_are_not_taken_for_it():
    means = StepMeans(None, (6, 6), steps=(1,), draws=1)
    means(seen(masks(2, (6, 6)), 0, range(2)))
    means(seen(masks(2, (4, 4)), 0, range(2)))
    means(seen(masks(2, (6, 6)), 0, range(2)))
    assert means.means == {} and means.draws == []


def test_several_images_are_not_taken_for_draws():
    means = StepMeans(None, (6, 6), steps=(1,))
    means(seen(masks(4, (6, 6)), 0, range(2)))
    assert means.means == {}


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_slices_become_volumes(axis):
    slicewise = object.__new__(SlicewiseSegmenter)
    torch.nn.Module.__init__(slicewise)
    slicewise.axis = axis
    volumes = masks(2, (3, 4, 5))  # (draws, K, X, Y, Z)
    depth = volumes.shape[axis]
    plane = [n for k, n in enumerate(volumes.shape[2:]) if k != axis % 3]
    slices = volumes.movedim(axis, 0)  # (D, draws, K, *S)
    means = StepMeans(slicewise, (3, 4, 5), steps=(1,), draws=1)
    means(seen(slices.reshape(depth * 2, 3, *plane), 0, range(2)))

    wanted = OneHotCodec(3).probabilities(volumes)
    torch.testing.assert_close(torch.stack(means.draws), wanted)
    torch.testing.assert_close(means.means[1], wanted.mean(dim=0))
