from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medsegdiff.inferers import fusion
from medsegdiff.inferers.fusion import FUSIONS, DrawLabels, MajorityVote, Staple, as_labels, break_ties

SIZES = {2: (9, 8), 3: (7, 6, 5)}


def _maps(number: int, *, dims: int = 3, num_classes: int = 3, batch: int = 1, noise: float = 0.3) -> torch.Tensor:
    """Label maps (R, B, *S) that agree for the most part."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(batch, num_classes, *[3] * dims, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=SIZES[dims])
    raters = logits + noise * torch.randn(number, *logits.shape, generator=generator)
    return raters.argmax(dim=2).to(torch.uint8)


def _fuse(kind: str, maps, num_classes: int = 3) -> torch.Tensor:
    fused = FUSIONS[kind](num_classes)
    for labels in maps:
        fused.add([labels])
    return fused.probabilities()


def _one_hot(labels: torch.Tensor, num_classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels.long(), num_classes).movedim(-1, 1).float()


def _staple_by_hand(raters: np.ndarray, *, iterations: int = 200) -> np.ndarray:
    """Warfield et al. 2004, equations 10 to 20, for binary raters (R, N) with a fixed prior."""
    prior, sensitivity, specificity = raters.mean(), np.full(len(raters), 0.99999), np.full(len(raters), 0.99999)
    for _ in range(iterations):
        a = prior * np.prod(np.where(raters, sensitivity[:, None], 1 - sensitivity[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(raters, 1 - specificity[:, None], specificity[:, None]), axis=0)
        weight = a / (a + b)
        sensitivity = (weight * raters).sum(axis=1) / weight.sum()
        specificity = ((1 - weight) * (1 - raters)).sum(axis=1) / (1 - weight).sum()
    return weight


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", FUSIONS)
class TestAnyFusion:
    def test_probabilities_sum_to_one_and_keep_the_batch(self, kind, dims):
        maps = _maps(5, dims=dims, batch=2)
        result = _fuse(kind, maps)
        assert result.shape == (2, 3, *SIZES[dims]) and result.dtype == torch.float32
        torch.testing.assert_close(result.sum(dim=1), torch.ones(2, *SIZES[dims]))
        assert result.min() >= 0
        for item in range(2):
            torch.testing.assert_close(_fuse(kind, maps[:, item : item + 1]), result[item : item + 1])

    def test_raters_that_agree_are_right(self, kind, dims):
        labels = _maps(1, dims=dims)[0]
        torch.testing.assert_close(_fuse(kind, [labels] * 3), _one_hot(labels), rtol=0, atol=0)

    def test_one_stray_rater_among_many_is_outvoted(self, kind, dims):
        labels = _maps(1, dims=dims)[0]
        result = _fuse(kind, [labels] * 4 + [(labels + 1) % 3])
        torch.testing.assert_close(result.argmax(dim=1), labels.long())

    def test_a_class_that_nobody_has_is_impossible(self, kind, dims):
        maps = _maps(3, dims=dims, num_classes=2) * 2  # classes 0 and 2
        result = _fuse(kind, maps, num_classes=4)
        assert (result[:, [1, 3]] == 0).all() and result.isfinite().all()

    def test_the_order_of_raters_does_not_matter(self, kind, dims):
        maps = _maps(4, dims=dims)
        torch.testing.assert_close(_fuse(kind, maps.flip(0)), _fuse(kind, maps))


class TestMajority:
    def test_a_probability_is_a_share_of_the_votes(self):
        maps = _maps(5)
        shares = torch.stack([_one_hot(labels) for labels in maps]).mean(dim=0)
        torch.testing.assert_close(_fuse("majority", maps), shares)

    def test_the_draws_of_a_member_share_its_vote(self):
        first, second = MajorityVote(2), torch.ones(1, 2, dtype=torch.uint8)
        first.add([second * 0, second * 0, second * 0, second])  # 3/4 for class 0
        first.add([second])
        torch.testing.assert_close(first.probabilities()[0, :, 0], torch.tensor([0.375, 0.625]))


class TestStaple:
    @pytest.mark.parametrize("dims", [2, 3])
    def test_for_two_classes_it_is_that_of_the_paper(self, dims):
        maps = _maps(5, dims=dims, num_classes=2, noise=0.6)
        expected = _staple_by_hand(maps.flatten(1).numpy().astype(float)).reshape(SIZES[dims])
        torch.testing.assert_close(
            _fuse("staple", maps, num_classes=2)[0, 1], torch.from_numpy(expected).float(), rtol=0, atol=1e-4
        )

    def test_for_more_classes_it_is_that_of_each_class_normalised(self):
        maps = _maps(5, noise=0.6)
        images = [sitk.GetImageFromArray(labels[0].numpy()) for labels in maps]
        each = np.stack([sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0, float(k))) for k in range(3)])
        expected = torch.from_numpy(each / each.sum(axis=0)).float()
        torch.testing.assert_close(_fuse("staple", maps)[0], expected, rtol=0, atol=1e-4)

    def test_good_raters_weigh_more_than_many_bad_ones(self):
        truth = torch.zeros(1, 12, 12, dtype=torch.uint8)
        truth[:, 3:9, 3:9] = 1
        generator = torch.Generator().manual_seed(0)
        bad = [torch.where(torch.rand(truth.shape, generator=generator) < 0.45, 1 - truth, truth) for _ in range(5)]
        good = []
        for row in (2, 5):
            spoilt = truth.clone()
            spoilt[:, row, 0] = 1 - spoilt[:, row, 0]
            good.append(spoilt)
        wrong = {kind: (_fuse(kind, good + bad, 2).argmax(dim=1) != truth).sum() for kind in FUSIONS}
        assert wrong["staple"] <= 2 < wrong["majority"]

    def test_raters_without_an_answer_fall_back_to_their_votes(self, monkeypatch):
        maps = _maps(3)
        monkeypatch.setattr(fusion, "_staple", lambda images, k: torch.full(SIZES[3], torch.nan, dtype=torch.float64))
        torch.testing.assert_close(_fuse("staple", maps), _fuse("majority", maps))
        monkeypatch.setattr(fusion, "_staple", lambda images, k: torch.zeros(SIZES[3], dtype=torch.float64))
        torch.testing.assert_close(_fuse("staple", maps), _fuse("majority", maps))

    @pytest.mark.parametrize(
        "pair",
        [([[0, 0, 0, 0]], [[1, 1, 1, 1]]), ([[0, 1, 0, 1]], [[1, 0, 1, 0]]), ([[0, 0, 2, 2]], [[1, 1, 1, 1]])],
        ids=["nothing against all", "opposites", "nothing in common"],
    )
    def test_raters_that_contradict_each_other_give_numbers(self, pair):
        maps = [torch.tensor(rater, dtype=torch.uint8)[None] for rater in pair]
        result = _fuse("staple", maps)
        assert result.isfinite().all()
        torch.testing.assert_close(result.sum(dim=1), torch.ones(1, 1, 4))

    def test_every_draw_is_a_rater(self):
        maps = _maps(4)
        together = Staple(3)
        together.add(list(maps[:3]))
        together.add([maps[3]])
        torch.testing.assert_close(together.probabilities(), _fuse("staple", maps))


class TestTies:
    def test_mean_probabilities_decide_them(self):
        fused = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.4, 0.2], [0.6, 0.4, 0.0]]).T[None]  # (1, K, 3 voxels)
        mean = torch.tensor([[0.3, 0.6, 0.1], [0.2, 0.1, 0.7], [0.1, 0.9, 0.0]]).T[None]
        before = fused.clone()
        result = break_ties(fused, mean)
        assert result.argmax(dim=1).tolist() == [[1, 0, 0]]  # of the second, the tied first two only
        torch.testing.assert_close(result.sum(dim=1), torch.ones(1, 3))
        torch.testing.assert_close(result, before, rtol=0, atol=1e-3)
        torch.testing.assert_close(result[..., 2], before[..., 2], rtol=0, atol=0)

    def test_a_mean_without_an_opinion_does_no_harm(self):
        result = break_ties(torch.tensor([[[0.5], [0.5]]]), torch.zeros(1, 2, 1))
        torch.testing.assert_close(result, torch.full((1, 2, 1), 0.5))

    def test_shares_that_differ_by_rounding_are_tied(self):
        fused = torch.tensor([[[1 / 3 + 2 / 15 - 1e-7], [1 / 3 + 2 / 15], [1 / 15]]])
        assert break_ties(fused, torch.tensor([[[0.9], [0.1], [0.0]]])).argmax() == 0


class TestDrawLabels:
    @pytest.mark.parametrize("dims", [2, 3])
    @pytest.mark.parametrize("draws_per_batch", [1, 2, 5])
    def test_the_label_map_of_every_draw_is_kept(self, make_segmenter, dims, draws_per_batch):
        segmenter = make_segmenter(spatial_dims=dims, draws=5, draws_per_batch=draws_per_batch)
        image = torch.randn(2, 1, *SIZES[dims])
        watch = DrawLabels()
        result = segmenter.sample(image, cases=["a", "b"], callback=watch)
        maps = watch.maps()
        assert len(maps) == 5 and all(labels.dtype == torch.uint8 for labels in maps)
        assert any(not torch.equal(maps[0], labels) for labels in maps[1:])
        # The first draw is that of a segmenter of one draw, whose probabilities are its own.
        segmenter.set_sampling(draws=1)
        alone = segmenter.sample(image, cases=["a", "b"])
        assert torch.equal(maps[0], as_labels(alone.probabilities))
        assert result.probabilities.shape[2:] == maps[0].shape[1:]

    def test_sampling_that_is_stopped_leaves_what_it_had(self, make_segmenter):
        segmenter, image = make_segmenter(draws=3, draws_per_batch=2, steps=3), torch.randn(1, 1, *SIZES[3])
        seen = []

        def stop(step):
            seen.append(step.step.index)
            return step.step.index == 1

        watch = DrawLabels(stop)
        segmenter.sample(image, cases=["a"], callback=watch)
        assert seen == [0, 1, 0, 1]
        segmenter.set_sampling(draws=1)
        alone = segmenter.sample(image, cases=["a"], callback=lambda step: step.step.index == 1)
        assert torch.equal(watch.maps()[0], as_labels(alone.probabilities))
        assert len(watch.maps()) == 3


def test_labels_of_many_classes_need_more_than_a_byte():
    probabilities = torch.zeros(1, 300, 1)
    probabilities[:, 299] = 1
    assert as_labels(probabilities).tolist() == [[299]]
