"""Volumes by 2-D segmenters: the same as a loop over slices, whatever the batch, the window and the axis."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from medsegdiff.errors import DataError, SpecError
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.sampling import SamplingInferer
from medsegdiff.inferers.slicewise import SlicewiseSegmenter, for_images_of, spatial_dims
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

SIZE = (7, 6, 5)


class Gradient(nn.Module):
    """Logits of a pixel from itself, its neighbour along the first axis, x_t and z: no two slices or axes alike."""

    spatial_dims, image_channels, latent_dim = 2, 1, 3

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image + 0.5 * image.roll(1, dims=2)

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        logits = torch.cat([-condition, condition, 0.2 * condition], dim=1)
        return logits + 0.3 * x_t + 0.1 * z.mean(dim=1)[:, None, None, None]


def gradient_segmenter(**options) -> DiffusionSegmenter:
    return DiffusionSegmenter(
        Gradient(),
        codec=OneHotCodec(3),
        prediction=build_prediction("logits"),
        schedule=linear_schedule(20),
        **{"steps": 3, "draws": 2, **options},
    )


def volume(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(1))


def same(one, other) -> None:
    torch.testing.assert_close(one.probabilities, other.probabilities)
    torch.testing.assert_close(one.variance, other.variance)
    assert one.draws == other.draws


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_it_is_a_loop_over_the_slices(axis):
    segmenter, images = gradient_segmenter(), volume(batch=2)
    got = SlicewiseSegmenter(segmenter, axis=axis).sample(images, cases=["a", "b"])
    assert got.probabilities.shape == (2, 3, *SIZE) and got.variance.shape == (2, 1, *SIZE)
    assert got.draws == 2 and got.variance.max() > 0
    for case, probabilities, variance, image in zip("ab", got.probabilities, got.variance, images, strict=True):
        for k in range(SIZE[axis]):
            one = segmenter.sample(image.select(axis, k)[None], cases=[f"{case}/{k}"])
            torch.testing.assert_close(probabilities.select(axis, k), one.probabilities[0])
            torch.testing.assert_close(variance.select(axis, k), one.variance[0])


@pytest.mark.parametrize("slices_per_batch", [1, 2, 3, 7, 100])
def test_how_many_slices_go_at_once_makes_no_difference(slices_per_batch):
    segmenter, images = gradient_segmenter(), volume(batch=2)
    several = SlicewiseSegmenter(segmenter, slices_per_batch=slices_per_batch).sample(images, cases=["a", "b"])
    same(several, SlicewiseSegmenter(segmenter).sample(images, cases=["a", "b"]))


@pytest.mark.parametrize(("slices_per_batch", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5])])
def test_no_more_slices_than_allowed_go_at_once(slices_per_batch, batches):
    segmenter, seen = gradient_segmenter(steps=1, draws=1), []
    network = SlicewiseSegmenter(segmenter, slices_per_batch=slices_per_batch)
    network.sample(volume(), cases=["a"], callback=lambda step: seen.append(len(step.step.x_t)))
    assert seen == batches


def test_slices_of_equal_content_have_noises_of_their_own():
    image = volume()[..., :1].expand(-1, -1, -1, -1, 4)
    probabilities = SlicewiseSegmenter(gradient_segmenter()).sample(image, cases=["a"]).probabilities
    assert not torch.allclose(probabilities[..., 0], probabilities[..., 1], atol=1e-3)


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_a_window_sees_the_noise_of_the_whole_volume(make_segmenter, axis):
    # The pointwise network sees one voxel at a time: any other noise would show.
    network = SlicewiseSegmenter(make_segmenter(spatial_dims=2, draws=2), axis=axis)
    image = volume()
    whole = network.sample(image, cases=["a"])
    window = (slice(2, 6), slice(1, 4), slice(2, 5))
    part = network.sample(image[(..., *window)], cases=["a"], full_size=SIZE, window=window)
    torch.testing.assert_close(part.probabilities, whole.probabilities[(..., *window)])
    elsewhere = (slice(0, 4), slice(1, 4), slice(0, 3))
    other = network.sample(image[(..., *window)], cases=["a"], full_size=SIZE, window=elsewhere)
    assert not torch.allclose(part.probabilities, other.probabilities, atol=1e-3)


@pytest.mark.parametrize("roi_size", [(7, 6, 2), (4, 3, 3), (9, 8, 8)])
def test_sliding_windows_of_a_volume_equal_the_whole(make_segmenter, roi_size):
    network, image = SlicewiseSegmenter(make_segmenter(spatial_dims=2, draws=2)), volume(batch=2)
    padding = [max(window - size, 0) for window, size in zip(roi_size[:2], SIZE[:2], strict=True)] + [0]
    before = [amount // 2 for amount in padding]
    pairs = [(b, p - b) for b, p in zip(before, padding, strict=True)]
    padded = nn.functional.pad(image, [n for pair in reversed(pairs) for n in pair])
    inside = tuple(slice(b, b + size) for b, size in zip(before, SIZE, strict=True))
    whole = network.sample(padded, cases=["a", "b"])
    for average in ("steps", "probabilities"):
        inferer = WindowAveragedInferer(roi_size, average=average, overlap=0.75)
        windowed = inferer.sample(image, network, cases=["a", "b"])
        torch.testing.assert_close(windowed.probabilities, whole.probabilities[(..., *inside)])
        torch.testing.assert_close(windowed.variance, whole.variance[(..., *inside)])


def test_called_as_a_network_it_samples_and_keeps_the_metadata():
    network = SlicewiseSegmenter(gradient_segmenter())
    image = MetaTensor(volume(), meta={"filename_or_obj": ["case_07.nii.gz"]})
    named = network.sample(volume(), cases=["case_07"]).probabilities
    for result in (network(image), SimpleInferer()(image, network), SamplingInferer()(image, network)):
        assert isinstance(result, MetaTensor) and result.meta["filename_or_obj"] == ["case_07.nii.gz"]
        torch.testing.assert_close(result.as_tensor(), named)
    assert type(network(volume())) is torch.Tensor
    assert network(volume()).is_contiguous() and not network(volume()).requires_grad


def test_its_settings_are_those_of_the_segmenter_inside():
    segmenter = gradient_segmenter(seed=4)
    network = SlicewiseSegmenter(segmenter)
    assert (network.steps, network.draws, network.seed, network.sampler) == (3, 2, 4, "ddpm")
    assert network.codec is segmenter.codec and network.spatial_dims == 3 and not network.supervised
    network.set_sampling(sampler="ddim", steps=2, draws=5, seed=6)
    assert (segmenter.sampler, segmenter.steps, segmenter.draws, segmenter.seed) == ("ddim", 2, 5, 6)
    segmenter.set_sampling(draws=1)
    assert network.draws == 1
    assert copy.deepcopy(network).steps == 2
    with pytest.raises(AttributeError, match="nonsense"):
        _ = network.nonsense


def test_a_supervised_network_goes_slice_by_slice_too(make_segmenter):
    network = SlicewiseSegmenter(make_segmenter(supervised=True, spatial_dims=2), slices_per_batch=2)
    assert network.supervised
    torch.testing.assert_close(network(volume()), make_segmenter(supervised=True)(volume()))


def test_an_ensemble_of_2d_segmenters_may_stand_inside_or_outside(make_segmenter):
    members = [gradient_segmenter(), make_segmenter(supervised=True, spatial_dims=2)]
    inside = SlicewiseSegmenter(EnsembleSegmenter(members))
    outside = EnsembleSegmenter([SlicewiseSegmenter(member) for member in members])
    same(inside.sample(volume(), cases=["a"]), outside.sample(volume(), cases=["a"]))
    assert spatial_dims(inside) == spatial_dims(outside) == 3


class TestForImagesOf:
    def test_what_fits_stays(self, make_segmenter):
        volumes, pictures = make_segmenter(spatial_dims=3), make_segmenter(spatial_dims=2)
        assert for_images_of(volumes, 3) is volumes
        assert for_images_of(pictures, 2) is pictures
        slicewise = for_images_of(pictures, 3, slices_per_batch=5)
        assert slicewise.segmenter is pictures and slicewise.slices_per_batch == 5
        assert for_images_of(slicewise, 3) is slicewise

    def test_a_network_of_volumes_does_not_take_pictures(self, make_segmenter):
        for network in (make_segmenter(spatial_dims=3), SlicewiseSegmenter(make_segmenter(spatial_dims=2))):
            with pytest.raises(SpecError, match="got a network of 3 spatial axes for images of 2"):
                for_images_of(network, 2)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [({"axis": 2}, "axis is 2; slices lie along"), ({"slices_per_batch": 0}, "slices_per_batch is 0")],
    )
    def test_options(self, make_segmenter, options, message):
        with pytest.raises(SpecError, match=message):
            SlicewiseSegmenter(make_segmenter(spatial_dims=2), **options)

    def test_a_segmenter_of_volumes(self, make_segmenter):
        with pytest.raises(SpecError, match="got a segmenter of 3 spatial axes to go slice by slice"):
            SlicewiseSegmenter(make_segmenter(spatial_dims=3))

    @pytest.mark.parametrize(
        ("image", "options", "kind", "message"),
        [
            (volume()[0], {}, DataError, r"shape \(1, 7, 6, 5\); slices are cut from"),
            (volume(), {"cases": ["a", "b"]}, DataError, "got 2 case names for 1 images"),
            (volume(), {"window": [slice(0, 7)] * 3}, SpecError, "got a window without the case"),
            (volume().expand(-1, 2, -1, -1, -1), {}, DataError, "an image of 2 channels"),
            (
                volume(),
                {"cases": ["a"], "full_size": SIZE, "window": [slice(0, 7), slice(0, 6), slice(1, 4)]},
                DataError,
                "got a window of 3 slices for an image of 5",
            ),
        ],
    )
    def test_images(self, make_segmenter, image, options, kind, message):
        with pytest.raises(kind, match=message):
            SlicewiseSegmenter(make_segmenter(spatial_dims=2)).sample(image, **options)
