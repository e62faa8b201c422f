"""The method of SegDiff: the networks that it builds, how it trains and how it samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.engines.strategies import get_strategy
from medsegdiff.errors import SpecError
from medsegdiff.losses.segmentation import RegressionLoss
from medsegdiff.methods import METHODS, RunSpec, build_segmenter, load_segmenter, save_weights
from medsegdiff.methods.segdiff import count_levels, levels_with_sides
from medsegdiff.networks.export import TraceableSampler
from medsegdiff.networks.nets.image_encoders import RRDBEncoder
from medsegdiff.networks.nets.segdiff_unet import SegDiffUNet
from medsegdiff.networks.prediction import EpsilonPrediction, LogitsPrediction
from medsegdiff.networks.schedulers import build_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter, SegmenterStep
from tests.networks.nets.contract import awakened

METHOD = METHODS["segdiff"]
SCHEDULE = build_schedule("segdiff")
TINY = {
    "channels": [8, 16],
    "num_res_blocks": 1,
    "num_heads": 2,
    "num_rrdbs": 1,
    "rrdb_channels": 4,
    "rrdb_growth": 2,
    "time_dim": 16,
}
# As printed in the paper, abar ends at 0.364: an untrained network's mistakes stay small, and differences count.
PRINTED = {"name": "segdiff", "num_train_timesteps": 100, "rescale": False}
both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (7, 6, 3)


@pytest.fixture
def segdiff_spec(make_spec: Callable[..., RunSpec]) -> Callable[..., RunSpec]:
    def make(dims: int = 2, **changes: Any) -> RunSpec:
        paper = {"method": "segdiff", "options": TINY, "prediction_options": {"name": "epsilon"}}
        return make_spec(dims, **{**paper, **changes})

    return make


def network(spec: RunSpec, masks: int = 1) -> SegDiffUNet:
    """The network of a run without memory behind its weights."""
    with torch.device("meta"):
        built = METHOD.build_denoiser(spec, masks, SCHEDULE)
    assert isinstance(built, SegDiffUNet)
    return built


def awake(spec: RunSpec) -> DiffusionSegmenter:
    segmenter = build_segmenter(spec.replace(schedule=PRINTED))
    awakened(segmenter.denoiser)
    return segmenter


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def widths(built: SegDiffUNet) -> list[int]:
    return [level[-1].residual.conv2.weight.shape[0] for level in built.encoder]


def attention_levels(built: SegDiffUNet) -> list[int]:
    return [n for n, level in enumerate(built.encoder) if level[0].attention is not None]


class TestMethod:
    def test_it_is_the_paper_s(self):
        settings = dict(METHOD.schedule)
        schedule = build_schedule(settings.pop("name"), **settings)
        assert schedule.num_train_timesteps == 100
        assert schedule.alphas_cumprod[-1].item() == pytest.approx(2.04e-5, rel=5e-3)
        assert (METHOD.strategy, METHOD.prediction, METHOD.time_sampler) == ("diffusion", "epsilon", "uniform")
        assert (METHOD.steps, METHOD.draws, METHOD.sampler, METHOD.sampler_options) == (100, 30, "ddpm", {})
        assert METHOD.prediction_options == {"clip_x_0": False}

    def test_small_networks_predict_classes_unless_the_noise_is_asked_for(self, segdiff_spec):
        assert isinstance(build_segmenter(segdiff_spec(prediction_options={})).prediction, LogitsPrediction)
        noise = build_segmenter(segdiff_spec()).prediction
        assert isinstance(noise, EpsilonPrediction)
        assert not noise.clip_x_0
        assert METHOD.prediction_for("paper") == {"name": "epsilon", "clip_x_0": False}

    def test_other_methods_keep_their_way_of_sampling(self):
        recycling = METHODS["recycling"]
        assert (recycling.steps, recycling.draws, recycling.sampler, recycling.sampler_options) == (5, 1, "ddpm", {})

    @pytest.mark.parametrize(("classes", "masks"), [(2, 1), (3, 3), (5, 5)])
    def test_two_classes_make_one_channel_and_more_make_one_each(self, segdiff_spec, classes, masks):
        segmenter = build_segmenter(segdiff_spec(class_names=[str(n) for n in range(classes)]))
        assert segmenter.mask_channels == masks
        probabilities = segmenter(torch.randn(1, 2, 8, 6))
        assert probabilities.shape == (1, classes, 8, 6)

    def test_an_untrained_network_makes_the_loss_of_the_noise_itself(self, segdiff_spec):
        segmenter = build_segmenter(segdiff_spec())
        label = torch.randint(3, (2, 1, *SIZE[:2]))
        x_0, t = segmenter.codec.encode(label), torch.tensor([3, 99])
        step = get_strategy(METHOD.strategy)(
            segmenter, torch.randn(2, 2, *SIZE[:2]), x_0, t, TrainingNoise(0, 0, ["a", "b"])
        )
        target = segmenter.prediction.target(x_0, step.noise, t, segmenter.schedule)
        torch.testing.assert_close(
            RegressionLoss(reduction="sum")(step.output, target), step.noise.square().flatten(1).sum(dim=1)
        )

    @both_dims
    def test_weights_come_back_from_a_file(self, segdiff_spec, tmp_path, dims):
        segmenter = awake(segdiff_spec(dims))
        segmenter.load_state_dict({k: v.half().float() for k, v in segmenter.state_dict().items()})
        save_weights(segmenter.state_dict(), segdiff_spec(dims, schedule=PRINTED), tmp_path / "model.pt")
        image = torch.randn(1, 2, *SIZE[:dims])
        assert torch.equal(load_segmenter(tmp_path / "model.pt", method="segdiff")(image), segmenter(image))


class TestSampling:
    @both_dims
    @pytest.mark.parametrize("condition", ["sum", "concat_image", "sum_after_down", "concat_features"])
    def test_draws_in_a_batch_equal_draws_in_a_loop(self, segdiff_spec, dims, condition):
        segmenter = awake(segdiff_spec(dims, draws=3, options={**TINY, "condition": condition}))
        image = torch.randn(2, 2, *SIZE[:dims])
        together = segmenter.sample(image)
        segmenter.set_sampling(draws_per_batch=1)
        alone = segmenter.sample(image)
        torch.testing.assert_close(together.probabilities, alone.probabilities, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.variance, alone.variance, atol=1e-5, rtol=0)
        assert together.variance.max() > 0.01

    @both_dims
    def test_the_image_is_encoded_once_for_all_steps_and_draws(self, segdiff_spec, dims):
        segmenter = awake(segdiff_spec(dims, draws=6, steps=3))
        calls = []
        segmenter.denoiser.image_encoder.register_forward_hook(lambda *_: calls.append(1))
        segmenter(torch.randn(1, 2, *SIZE[:dims]))
        assert len(calls) == 1

    @both_dims
    @pytest.mark.parametrize("variance", ["posterior", "beta"])
    def test_the_variances_of_paper_and_release_are_there(self, segdiff_spec, dims, variance):
        spec = segdiff_spec(dims, steps=3, sampler_options={"variance": variance})
        image = torch.randn(1, 2, *SIZE[:dims])
        segmenter = awake(spec)
        probabilities = segmenter(image)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(1, *SIZE[:dims]))
        other = {"posterior": "beta", "beta": "posterior"}[variance]
        segmenter.set_sampling(sampler_options={"variance": other})
        assert not torch.equal(segmenter(image), probabilities)

    @pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver++"])
    def test_a_callback_stops_early_with_the_prediction_of_that_step(self, segdiff_spec, sampler):
        segmenter = awake(segdiff_spec(steps=10, sampler=sampler))
        seen: list[SegmenterStep] = []

        def stop(step: SegmenterStep) -> bool:
            seen.append(step)
            return step.step.index == 5

        result = segmenter.sample(torch.randn(1, 2, 8, 6), callback=stop)
        assert [step.step.index for step in seen] == list(range(6))
        assert torch.equal(result.probabilities, segmenter.codec.probabilities(seen[-1].step.x_0))

    @torch.no_grad()
    def test_it_can_be_traced(self, segdiff_spec):
        segmenter = awake(segdiff_spec()).eval()
        image = torch.randn(1, 2, 8, 6)
        sampler = TraceableSampler(segmenter)
        expected = segmenter.sample(image, cases=["case"]).probabilities
        torch.testing.assert_close(sampler(image, *sampler.noise_inputs((8, 6))), expected)


class TestPaperSize:
    @pytest.mark.parametrize(
        ("task", "side", "total"),
        [
            ("monuseg", 256, 164_154_753),
            ("vaihingen", 256, 159_838_209),
            ("cityscapes", 128, 162_766_017),
            ("muscle_us", 256, 164_154_753),
        ],
    )
    def test_each_task_has_the_network_of_its_own(self, segdiff_spec, task, side, total):
        spec = segdiff_spec(task=task, size="paper", roi_size=[side, side], in_channels=3, options={})
        assert parameters(network(spec)) == total
        assert attention_levels(network(spec)) == {256: [4, 5], 128: [3, 4]}[side]

    @pytest.mark.parametrize(("roi", "levels"), [((96, 96, 96), 5), ((40, 56, 40), 4), ((128, 128, 16), 4)])
    def test_in_3d_it_is_as_wide_as_the_recycling_paper_s(self, segdiff_spec, roi, levels):
        built = network(segdiff_spec(3, size="paper", roi_size=roi, options={}))
        assert widths(built) == {5: [32, 64, 64, 128, 128], 4: [32, 64, 128, 128]}[levels]
        assert 20e6 < parameters(built) < 60e6
        assert isinstance(built.image_encoder, RRDBEncoder) and len(built.image_encoder.trunk) == 3


class TestSmallSize:
    @pytest.mark.parametrize("roi", [(256, 256), (128, 128), (40, 56, 40), (96, 96, 96)])
    def test_it_trains_on_a_cpu(self, segdiff_spec, roi):
        built = network(segdiff_spec(len(roi), roi_size=roi, options={}))
        assert 1e6 < parameters(built) < 7e6
        assert {m.num_channels // m.num_groups for m in built.modules() if isinstance(m, nn.GroupNorm)} == {8}

    def test_it_needs_no_padding_in_the_hippocampus(self, segdiff_spec):
        built = network(segdiff_spec(3, roi_size=[40, 56, 40], options={}))
        assert built.size_factor == 8
        assert attention_levels(built) == [2, 3]


class TestOptions:
    @both_dims
    @pytest.mark.parametrize(
        "options",
        [
            {"condition": "concat_image"},
            {"condition": "sum_after_down"},
            {"condition": "concat_features"},
            {"image_encoder": "monai_basic_unet"},
            {"time_embedding": "table"},
            {"gradient_checkpointing": True, "dropout": 0.1},
        ],
    )
    def test_they_reach_the_network(self, segdiff_spec, dims, options):
        built = network(segdiff_spec(dims, options={**TINY, **options}), masks=3)
        for name, value in options.items():
            if hasattr(built, name) and not isinstance(getattr(built, name), nn.Module):
                assert getattr(built, name) == value
        with torch.device("meta"):
            expected = SegDiffUNet(
                dims, 2, 3, 3, **{**TINY, "min_group_size": 8, "attention_levels": (0,), "num_heads": 2, **options}
            )
        own = {"min_group_size", "attention_levels"}
        assert own.isdisjoint(options)
        assert {k: v.shape for k, v in built.state_dict().items()} == {
            k: v.shape for k, v in expected.state_dict().items()
        }

    def test_a_table_has_a_row_for_each_time_of_the_schedule(self, segdiff_spec):
        spec = segdiff_spec(
            options={**TINY, "time_embedding": "table"}, schedule={"name": "cosine", "num_train_timesteps": 12}
        )
        embedding = build_segmenter(spec).denoiser.time_embedding
        assert isinstance(embedding, nn.Embedding) and embedding.num_embeddings == 12

    @pytest.mark.parametrize(("resolutions", "levels"), [((8,), [0]), ((4,), [1]), ((8, 4), [0, 1]), ((), [])])
    def test_attention_stands_where_it_is_asked_for(self, segdiff_spec, resolutions, levels):
        options = {**TINY, "attention_resolutions": resolutions}
        assert attention_levels(network(segdiff_spec(options=options))) == levels
        assert attention_levels(network(segdiff_spec(options={**options, "attention_levels": [1]}))) == [1]

    def test_without_a_schedule_it_is_a_supervised_network_of_all_classes(self, segdiff_spec):
        built = METHOD.build_denoiser(segdiff_spec(), 0, None)
        nothing, image = torch.zeros(2, 0, 8, 6), torch.randn(2, 2, 8, 6)
        assert built(nothing, torch.zeros(2, dtype=torch.long), built.encode(image)).shape == (2, 3, 8, 6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"depth": 3}, r"the SegDiff U-Net .* has no option 'depth'; its options are channels, num_res_blocks"),
            ({"num_train_timesteps": 3}, "has no option 'num_train_timesteps'"),
            ({"channels": 64}, "options .*channels.* do not fit the SegDiff U-Net"),
            ({"condition": "product"}, "condition 'product' does not exist"),
            ({"attention_resolutions": [16, 0]}, r"attention_resolutions is \[16, 0\]; give sizes"),
            ({"attention_resolutions": 16}, "do not fit the SegDiff U-Net"),
            ({"channels": [8, 16], "num_res_blocks": [1, 1, 1]}, "num_res_blocks has 3 entries for 2 levels"),
        ],
    )
    def test_those_that_do_not_fit_are_refused(self, segdiff_spec, options, message):
        with pytest.raises(SpecError, match=message):
            network(segdiff_spec(options={**TINY, **options}))


class TestLevels:
    @pytest.mark.parametrize(
        ("roi", "levels"),
        [
            ((256, 256), 7),
            ((128, 128), 6),
            ((64, 64), 5),
            ((480, 512), 7),
            ((40, 56, 40), 4),
            ((256, 256, 16), 4),
            ((4, 4), 1),
            ((1, 1, 1), 1),
        ],
    )
    def test_their_number_follows_the_size(self, roi, levels):
        assert count_levels(roi) == levels

    @pytest.mark.parametrize(
        ("resolutions", "roi", "expected"),
        [
            ((16, 8), (256, 256), [4, 5]),
            ((16, 8), (128, 128), [3, 4]),
            ((32, 16, 8), (256, 256), [3, 4, 5]),
            ((16, 8), (480, 512), [5, 6]),
            ((16, 8), (40, 56, 40), [2, 3]),
            ((16, 8), (8, 8), [0]),
            ((16, 8), (4, 4), []),
            ((), (256, 256), []),
        ],
    )
    def test_attention_has_those_whose_longest_side_comes_nearest(self, resolutions, roi, expected):
        assert levels_with_sides(resolutions, roi, 7) == expected
