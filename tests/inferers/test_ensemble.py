from __future__ import annotations

import weakref

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.fusion import FUSIONS, DrawLabels, as_labels, break_ties
from medsegdiff.inferers.slicewise import SlicewiseSegmenter
from medsegdiff.inferers.window_averaged import WindowAveragedInferer


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
    torch.testing.assert_close(result.variance, within + between.sum(dim=1, keepdim=True) / 2)
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
    windowed = WindowAveragedInferer((3, 4, 4), average="probabilities", overlap=0.5).sample(
        image, ensemble, cases=["a", "b"]
    )
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


def _fused(kind, *members_maps):
    fusion = FUSIONS[kind](3)
    for maps in members_maps:
        fusion.add(maps)
    return fusion.probabilities()


@pytest.mark.parametrize("kind", FUSIONS)
class TestFusion:
    def test_label_maps_of_members_are_fused(self, make_segmenter, image, kind):
        members = [make_segmenter(draws=3, seed=seed) for seed in range(2)] + [make_segmenter(supervised=True)]
        parts = [member.sample(image, cases=["a", "b"]) for member in members]
        mean = sum(part.probabilities for part in parts) / 3
        expected = break_ties(_fused(kind, *[[as_labels(part.probabilities)] for part in parts]), mean)
        result = EnsembleSegmenter(members, fusion=kind).sample(image, cases=["a", "b"])
        torch.testing.assert_close(result.probabilities, expected)
        assert (result.probabilities - mean).abs().max() > 0.05

    def test_the_variance_is_that_of_the_mean(self, make_segmenter, image, kind):
        members = [make_segmenter(draws=3), make_segmenter(supervised=True)]
        fused = EnsembleSegmenter(members, fusion=kind).sample(image, cases=["a", "b"])
        mean = EnsembleSegmenter(members).sample(image, cases=["a", "b"])
        torch.testing.assert_close(fused.variance, mean.variance)
        assert fused.draws == mean.draws == 4

    def test_draws_of_one_network_are_fused(self, make_segmenter, image, kind):
        member = make_segmenter(draws=5, draws_per_batch=2)
        watch = DrawLabels()
        alone = member.sample(image, cases=["a", "b"], callback=watch)
        expected = break_ties(_fused(kind, watch.maps()), alone.probabilities)
        result = EnsembleSegmenter([member], fusion=kind, fuse_draws=True).sample(image, cases=["a", "b"])
        torch.testing.assert_close(result.probabilities, expected)
        torch.testing.assert_close(result.variance, alone.variance)
        assert result.draws == 5

    def test_draws_of_several_members_are_fused(self, make_segmenter, image, kind):
        members = [make_segmenter(draws=2, seed=4), make_segmenter(supervised=True, sharpness=0.5)]
        watch = DrawLabels()
        parts = [members[0].sample(image, cases=["a", "b"], callback=watch), members[1].sample(image)]
        mean = (parts[0].probabilities + parts[1].probabilities) / 2
        expected = break_ties(_fused(kind, watch.maps(), [as_labels(parts[1].probabilities)]), mean)
        result = EnsembleSegmenter(members, fusion=kind, fuse_draws=True).sample(image, cases=["a", "b"])
        torch.testing.assert_close(result.probabilities, expected)

    def test_draws_of_slices_are_fused_as_volumes(self, make_segmenter, image, kind):
        # Voxels are predicted from themselves and their noise alone; the noise is that of the slices in both.
        planes = SlicewiseSegmenter(make_segmenter(spatial_dims=2, draws=3), axis=-2, slices_per_batch=4)
        watch = DrawLabels()
        alone = planes.sample(image, cases=["a", "b"], callback=watch)
        maps = [labels.unflatten(0, (2, 5)).movedim(1, -2) for labels in watch.maps()]
        expected = break_ties(_fused(kind, maps), alone.probabilities)
        result = EnsembleSegmenter([planes], fusion=kind, fuse_draws=True).sample(image, cases=["a", "b"])
        torch.testing.assert_close(result.probabilities, expected)
        agreement = (result.probabilities.argmax(dim=1) == alone.probabilities.argmax(dim=1)).float().mean()
        assert agreement > 0.8  # of shuffled slices, half of that would

    @pytest.mark.parametrize("average", ["steps", "probabilities"])
    def test_members_that_go_by_windows_are_fused_whole(self, make_segmenter, image, kind, average):
        ensemble = EnsembleSegmenter([make_segmenter(draws=2), make_segmenter(supervised=True)], fusion=kind)
        whole = ensemble.sample(image, cases=["a", "b"])
        inferer = WindowAveragedInferer((3, 4, 4), average=average, overlap=0.5)
        windowed = inferer.sample(image, ensemble, cases=["a", "b"])
        torch.testing.assert_close(windowed.probabilities, whole.probabilities)

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    @pytest.mark.parametrize("roi_size", [(3, 4, 4), (8, 5, 4)], ids=["windows", "padded"])
    def test_draws_that_go_by_windows_are_fused_whole(self, make_segmenter, image, kind, spatial_dims, roi_size):
        member = make_segmenter(spatial_dims=spatial_dims, draws=3, draws_per_batch=2)
        member = SlicewiseSegmenter(member, slices_per_batch=3) if spatial_dims == 2 else member
        ensemble = EnsembleSegmenter([member], fusion=kind, fuse_draws=True)
        padded = torch.nn.functional.pad(image, (0, 0, 0, 0, 1, 1)) if roi_size[0] > image.shape[2] else image
        whole = ensemble.sample(padded, cases=["a", "b"])
        windowed = WindowAveragedInferer(roi_size, overlap=0.5).sample(image, ensemble, cases=["a", "b"])
        if kind == "majority":  # a vote of each voxel; that of raters' quality is of all voxels, the padding's too
            inside = slice(1, -1) if padded is not image else slice(None)
            torch.testing.assert_close(windowed.probabilities, whole.probabilities[:, :, inside])
        elif padded is image:
            torch.testing.assert_close(windowed.probabilities, whole.probabilities)
        assert windowed.draws == 3 and windowed.probabilities.shape[2:] == image.shape[2:]

    def test_draws_of_windows_that_are_sampled_to_their_ends_are_not_fused(self, make_segmenter, image, kind):
        ensemble = EnsembleSegmenter([make_segmenter(draws=2)], fusion=kind, fuse_draws=True)
        with pytest.raises(SpecError, match=r"draws can be fused as whole images only.*average windows at every step"):
            WindowAveragedInferer((3, 4, 4), average="probabilities").sample(image, ensemble, cases=["a", "b"])


def test_two_members_who_disagree_are_decided_by_the_mean(make_segmenter, image):
    members = [make_segmenter(supervised=True, sharpness=s) for s in (2.0, -0.5)]
    labels = [as_labels(member(image)) for member in members]
    assert (labels[0] != labels[1]).float().mean() > 0.5
    mean = EnsembleSegmenter(members)(image).argmax(dim=1)
    among = (mean == labels[0]) | (mean == labels[1])
    majority = EnsembleSegmenter(members, fusion="majority")(image).argmax(dim=1)
    assert torch.equal(majority[among], mean[among]) and among.float().mean() > 0.5


def test_an_inferer_may_sample_members_in_its_own_way(make_segmenter, image):
    ensemble = EnsembleSegmenter([make_segmenter(draws=2), make_segmenter()], fusion="majority", fuse_draws=True)
    seen = []

    def sample(member, callback):
        seen.append(member)
        return member.sample(image, cases=["a", "b"], callback=callback)

    steps = []
    result = ensemble.sample_with(sample, callback=lambda step: steps.append(step.step.t))
    assert seen == ensemble.segmenters and len(steps) == 2 * 3
    torch.testing.assert_close(result.probabilities, ensemble.sample(image, cases=["a", "b"]).probabilities)
    assert result.steps == (3, 3)


def test_the_memory_of_a_pool_does_not_grow_with_its_members(make_segmenter, image):
    alive, most = [], 0

    def sample(member, _callback):
        nonlocal most
        result = member.sample(image)
        alive.append(weakref.ref(result.probabilities))
        most = max(most, sum(ref() is not None for ref in alive))
        return result

    EnsembleSegmenter([make_segmenter(seed=seed) for seed in range(5)]).sample_with(sample)
    assert most <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "magic"}, "fusion 'magic' does not exist; use one of mean, majority, staple"),
        ({"fuse_draws": True}, "fuse_draws is for label maps"),
    ],
)
def test_fusions_that_cannot_be_are_refused(make_segmenter, options, message):
    with pytest.raises(SpecError, match=message):
        EnsembleSegmenter([make_segmenter(), make_segmenter()], **options)


def test_a_single_draw_is_not_fused(make_segmenter, image):
    with pytest.raises(SpecError, match="got 1 label map to fuse by staple; give 2 draws or more, or several weights"):
        EnsembleSegmenter([make_segmenter(draws=1)], fusion="staple", fuse_draws=True)
    with pytest.raises(SpecError, match="got 1 label map to fuse by staple"):
        EnsembleSegmenter([make_segmenter(supervised=True, draws=4)], fusion="staple", fuse_draws=True)
    ensemble = EnsembleSegmenter([make_segmenter(draws=2)], fusion="majority", fuse_draws=True)
    ensemble.set_sampling(draws=1)
    with pytest.raises(SpecError, match="got 1 label map to fuse by majority"):
        ensemble(image)
