from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from torch import nn

from medsegdiff.inferers.sampling import (
    KeyedSlidingWindowInferer,
    SamplingInferer,
    largest_variance,
    sampling_iteration,
)

SIZES = {2: (10, 7), 3: (10, 7, 6)}
WINDOWS = {2: (4, 5), 3: (4, 5, 3)}


def _image(spatial_dims: int = 3, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SIZES[spatial_dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("supervised", [True, False])
def test_called_as_an_inferer_it_gives_what_the_simple_one_gives(make_segmenter, supervised):
    segmenter, image = make_segmenter(supervised=supervised, draws=2), _image(batch=2)
    torch.testing.assert_close(SamplingInferer()(image, segmenter), SimpleInferer()(image, segmenter), rtol=0, atol=0)


def test_a_wrapped_network_is_sampled_too(make_segmenter):
    segmenter = make_segmenter()
    wrapped = nn.Module()
    wrapped.module = segmenter
    torch.testing.assert_close(SamplingInferer()(_image(), wrapped), segmenter(_image()), rtol=0, atol=0)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("draws", [1, 3])
def test_one_window_equals_the_whole_image_exactly(make_segmenter, spatial_dims, mode, draws):
    segmenter, image = make_segmenter(spatial_dims=spatial_dims, draws=draws), _image(spatial_dims)
    whole = segmenter.sample(image, cases=["a"])
    windowed = KeyedSlidingWindowInferer(SIZES[spatial_dims], mode=mode, overlap=0.5).sample(
        image, segmenter, cases=["a"]
    )
    torch.testing.assert_close(windowed.probabilities, whole.probabilities, rtol=0, atol=0)
    torch.testing.assert_close(windowed.variance, whole.variance, rtol=0, atol=0)
    assert windowed.draws == whole.draws == draws


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("sw_batch_size", [1, 4])
def test_windows_share_the_noise_of_their_image(make_segmenter, spatial_dims, mode, sw_batch_size):
    # Voxels are predicted from themselves alone, so any window that saw other noise would show.
    segmenter, image = make_segmenter(spatial_dims=spatial_dims, draws=2), _image(spatial_dims, batch=2)
    whole = segmenter.sample(image, cases=["a", "b"])
    inferer = KeyedSlidingWindowInferer(WINDOWS[spatial_dims], mode=mode, overlap=0.5, sw_batch_size=sw_batch_size)
    windowed = inferer.sample(image, segmenter, cases=["a", "b"])
    torch.testing.assert_close(windowed.probabilities, whole.probabilities)
    torch.testing.assert_close(windowed.variance, whole.variance)


def test_noise_belongs_to_the_case_whatever_the_batch(make_segmenter):
    segmenter, image = make_segmenter(), _image(batch=2)
    inferer = KeyedSlidingWindowInferer(WINDOWS[3], sw_batch_size=3)
    together = inferer.sample(image, segmenter, cases=["a", "b"]).probabilities
    alone = inferer.sample(image[1:], segmenter, cases=["b"]).probabilities
    other = inferer.sample(image[1:], segmenter, cases=["a"]).probabilities
    torch.testing.assert_close(together[1:], alone)
    assert not torch.allclose(other, alone, atol=1e-3)


@pytest.mark.parametrize("roi_size", [(12, 9, 8), (12, 4, 3), (16, -1, 3)])
def test_images_smaller_than_a_window_are_padded_and_cropped_again(make_segmenter, roi_size):
    segmenter, image = make_segmenter(), _image()
    result = KeyedSlidingWindowInferer(roi_size, overlap=0.5).sample(image, segmenter, cases=["a"])
    padding = [max(window - size, 0) for window, size in zip(roi_size, SIZES[3], strict=True)]
    before = [amount // 2 for amount in padding]
    pairs = [(b, p - b) for b, p in zip(before, padding, strict=True)]
    padded = nn.functional.pad(image, [n for pair in reversed(pairs) for n in pair])
    whole = segmenter.sample(padded, cases=["a"]).probabilities
    inside = tuple(slice(b, b + size) for b, size in zip(before, SIZES[3], strict=True))
    torch.testing.assert_close(result.probabilities, whole[(..., *inside)])


def test_every_window_is_sampled_to_its_end(make_segmenter):
    steps = []
    inferer = KeyedSlidingWindowInferer((5, 7, 6), overlap=0)
    inferer.sample(_image(), make_segmenter(steps=3), cases=["a"], callback=lambda step: steps.append(step.step.t))
    assert len(steps) == 2 * 3
    assert steps[:3] == steps[3:] == sorted(steps[:3], reverse=True)


def test_metadata_of_the_image_stay_with_the_probabilities(make_segmenter):
    image = MetaTensor(_image(), meta={"filename_or_obj": ["case_07.nii.gz"]})
    for inferer in (SamplingInferer(), KeyedSlidingWindowInferer(WINDOWS[3])):
        result = inferer(image, make_segmenter())
        assert isinstance(result, MetaTensor)
        assert result.meta["filename_or_obj"] == ["case_07.nii.gz"]
        assert type(inferer(_image(), make_segmenter())) is torch.Tensor


def test_the_name_of_the_file_is_the_key_of_its_noise(make_segmenter):
    image = MetaTensor(_image(), meta={"filename_or_obj": ["case_07.nii.gz"]})
    segmenter, inferer = make_segmenter(), KeyedSlidingWindowInferer(WINDOWS[3])
    named = inferer.sample(_image(), segmenter, cases=["case_07"]).probabilities
    torch.testing.assert_close(inferer.sample(image, segmenter).probabilities, named, rtol=0, atol=0)


def test_the_largest_variance_of_a_single_draw_is_none(make_segmenter):
    assert largest_variance(make_segmenter(draws=1).sample(_image())) is None
    sampled = make_segmenter(draws=3).sample(_image())
    variance = largest_variance(sampled)
    assert variance.shape == (1, 1, *SIZES[3])
    assert (variance >= sampled.variance).all() and (variance > 0).any()


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("labelled", [True, False])
def test_an_evaluator_gets_variance_and_label_where_there_are_any(make_segmenter, draws, labelled):
    items = [{"image": _image()[0]} | ({"label": torch.zeros(1, *SIZES[3])} if labelled else {}) for _ in range(2)]
    seen = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=make_segmenter(draws=draws).train(),
        inferer=SamplingInferer(),
        iteration_update=sampling_iteration,
        postprocessing=lambda item: seen.append(item) or item,
    )
    evaluator.run()
    assert len(seen) == 2
    expected = {"image", "pred"} | ({"label"} if labelled else set()) | ({"variance"} if draws > 1 else set())
    assert set(seen[0]) == expected
    assert seen[0]["pred"].shape == (3, *SIZES[3])
