from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.sampling import KeyedSlidingWindowInferer
from medsegdiff.inferers.slicewise import SlicewiseSegmenter


@pytest.fixture
def image():
    return torch.randn(2, 1, 6, 5, 4)


def test_the_mean_weighs_members_alike_whatever_their_draws(make_segmenter, image):
    members = [make_segmenter(draws=5), make_segmenter(supervised=True)]
    expected = (members[0](image) + members[1](image)) / 2
    ensemble = EnsembleSegmenter(members)
    torch.testing.assert_close(ensemble(image), expected)
    torch.testing.assert_close(ensemble(image).sum(dim=1), torch.ones(2, 6, 5, 4))


def test_the_variance_is_that_of_a_draw_of_a_random_member(make_segmenter, image):
    members = [make_segmenter(draws=4, seed=1), make_segmenter(draws=4, seed=2, sharpness=2.0)]
    result = EnsembleSegmenter(members).sample(image, cases=["a", "b"])
    parts = [member.sample(image, cases=["a", "b"]) for member in members]
    mean = (parts[0].probabilities + parts[1].probabilities) / 2
    within = (parts[0].variance + parts[1].variance) / 2
    between = sum((part.probabilities - mean) ** 2 for part in parts) / 2
    torch.testing.assert_close(result.variance, within + between)
    assert result.draws == 8


def test_members_of_one_draw_still_vary_between_each_other(make_segmenter, image):
    alike = EnsembleSegmenter([make_segmenter(supervised=True), make_segmenter(supervised=True)]).sample(image)
    assert alike.variance.abs().max() < 1e-12
    unlike = [make_segmenter(supervised=True), make_segmenter(supervised=True, sharpness=3.0)]
    assert EnsembleSegmenter(unlike).sample(image).variance.max() > 1e-3


def test_settings_reach_every_member(make_segmenter):
    ensemble = EnsembleSegmenter([make_segmenter(), make_segmenter()])
    ensemble.set_sampling(steps=2, draws=3, seed=9)
    assert [(m.steps, m.draws, m.seed) for m in ensemble.segmenters] == [(2, 3, 9)] * 2


def test_it_is_supervised_when_all_members_are(make_segmenter):
    supervised = make_segmenter(supervised=True)
    assert EnsembleSegmenter([supervised, supervised]).supervised
    assert not EnsembleSegmenter([supervised, make_segmenter()]).supervised


def test_windows_of_an_ensemble_share_noise_as_those_of_a_member_do(make_segmenter, image):
    ensemble = EnsembleSegmenter([make_segmenter(draws=2), make_segmenter(supervised=True)])
    whole = ensemble.sample(image, cases=["a", "b"])
    windowed = KeyedSlidingWindowInferer((3, 4, 4), overlap=0.5).sample(image, ensemble, cases=["a", "b"])
    torch.testing.assert_close(windowed.probabilities, whole.probabilities)
    assert windowed.draws == whole.draws == 3


@pytest.mark.parametrize(
    ("other", "what"),
    [({"spatial_dims": 2}, "spatial axes"), ({"image_channels": 2}, "image channels"), ({"num_classes": 4}, "classes")],
)
def test_members_that_differ_are_refused(make_segmenter, other, what):
    with pytest.raises(SpecError, match=rf"have \[\d, \d\] {what}; allowed is one number"):
        EnsembleSegmenter([make_segmenter(), make_segmenter(**other)])


def test_one_member_is_no_ensemble(make_segmenter):
    with pytest.raises(SpecError, match="got an ensemble of 1; allowed are two members or more"):
        EnsembleSegmenter([make_segmenter()])


def test_slices_and_volumes_go_together(make_segmenter, image):
    planes = SlicewiseSegmenter(make_segmenter(spatial_dims=2, draws=2))
    volumes = make_segmenter(supervised=True)
    ensemble = EnsembleSegmenter([volumes, planes])
    torch.testing.assert_close(ensemble(image), (volumes(image) + planes(image)) / 2)
    with pytest.raises(SpecError, match=r"have \[3, 2\] spatial axes"):
        EnsembleSegmenter([volumes, make_segmenter(spatial_dims=2)])
