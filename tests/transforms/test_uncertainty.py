from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from medsegdiff.transforms.uncertainty import RunningEntropy, Uncertaintyd, entropy


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_entropy_is_one_where_all_classes_are_equal_and_zero_where_one_is_certain(num_classes):
    equal = torch.full((num_classes, 2, 2), 1 / num_classes)
    certain = torch.zeros(num_classes, 2, 2)
    certain[-1] = 1
    torch.testing.assert_close(entropy(equal), torch.ones(1, 2, 2))
    torch.testing.assert_close(entropy(certain), torch.zeros(1, 2, 2), rtol=0, atol=0)


def test_entropy_of_two_classes_is_that_of_a_coin_in_bits():
    torch.testing.assert_close(entropy(torch.tensor([[0.25], [0.75]])), torch.tensor([[0.8112781]]))


def test_entropy_runs_along_any_axis():
    probabilities = torch.rand(4, 3, 5).softmax(dim=1)
    torch.testing.assert_close(entropy(probabilities, dim=1), entropy(probabilities.movedim(1, 0)).movedim(0, 1))


def test_the_transform_adds_a_map_with_the_grid_of_the_probabilities():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    probabilities = MetaTensor(torch.rand(3, 4, 4, 4).softmax(dim=0), affine=affine)
    item = Uncertaintyd("pred", "doubt")({"pred": probabilities, "other": 1})
    assert set(item) == {"pred", "other", "doubt"}
    torch.testing.assert_close(item["doubt"].affine, affine)
    torch.testing.assert_close(item["doubt"].as_tensor(), entropy(probabilities.as_tensor()))


def test_a_missing_key_can_be_allowed():
    assert Uncertaintyd("pred", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        Uncertaintyd("pred")({})


@pytest.mark.parametrize("num_classes", [2, 5])
def test_entropy_can_be_had_class_by_class(num_classes):
    probabilities = torch.rand(num_classes, 3, 4).softmax(dim=0)
    probabilities[:, 0] = torch.eye(num_classes)[0].unsqueeze(1)  # certain there
    before = probabilities.clone()
    running = RunningEntropy(num_classes)
    for probability in probabilities:
        running.add(probability)
    torch.testing.assert_close(running.result(), entropy(probabilities)[0])
    assert torch.equal(probabilities, before)


def test_the_entropy_of_no_class_is_no_number():
    with pytest.raises(RuntimeError, match="no class was added"):
        RunningEntropy(2).result()
