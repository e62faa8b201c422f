from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from torch import nn

from medsegdiff.inferers.sampling import SamplingInferer, sampling_iteration

SIZE = (10, 7, 6)


def _image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("supervised", [True, False])
def test_called_as_an_inferer_it_gives_what_the_simple_one_gives(make_segmenter, supervised):
    segmenter, image = make_segmenter(supervised=supervised, draws=2), _image(batch=2)
    torch.testing.assert_close(SamplingInferer()(image, segmenter), SimpleInferer()(image, segmenter), rtol=0, atol=0)


def test_a_wrapped_network_is_sampled_too(make_segmenter):
    segmenter = make_segmenter()
    wrapped = nn.Module()
    wrapped.module = segmenter
    torch.testing.assert_close(SamplingInferer()(_image(), wrapped), segmenter(_image()), rtol=0, atol=0)


def test_metadata_of_the_image_stay_with_the_probabilities(make_segmenter):
    image = MetaTensor(_image(), meta={"filename_or_obj": ["case_07.nii.gz"]})
    result = SamplingInferer()(image, make_segmenter())
    assert isinstance(result, MetaTensor)
    assert result.meta["filename_or_obj"] == ["case_07.nii.gz"]
    assert type(SamplingInferer()(_image(), make_segmenter())) is torch.Tensor


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("labelled", [True, False])
def test_an_evaluator_gets_variance_and_label_where_there_are_any(make_segmenter, draws, labelled):
    items = [{"image": _image()[0]} | ({"label": torch.zeros(1, *SIZE)} if labelled else {}) for _ in range(2)]
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
    assert seen[0]["pred"].shape == (3, *SIZE)
