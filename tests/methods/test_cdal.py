"""The method "cdal": its parts, the sizes of its networks, and what it refuses."""

from __future__ import annotations

import logging

import pytest
import torch

from medsegdiff.engines.attention import layer_factor
from medsegdiff.errors import SpecError
from medsegdiff.methods import RunSpec, build_segmenter, get_method
from medsegdiff.methods.cdal import (
    ADVERSARIAL,
    ATTENTION_LAYERS,
    build_cdal_generator,
    build_discriminator,
    paper_attention_layer,
)
from medsegdiff.networks.prediction import TanhPrediction
from medsegdiff.networks.schedulers import cdal_schedule

TINY = {"channels": [8, 8], "attention_levels": [1], "encoder_blocks": 1, "latent_dim": 4, "style_dim": 8}


def spec_of(dims: int = 2, *, classes: int = 2, roi_size: list[int] | None = None, **fields: object) -> RunSpec:
    settings = {
        "task": "phantoms",
        "method": "cdal",
        "size": "small",
        "spatial_dims": dims,
        "in_channels": 1,
        "class_names": ["background", *"abcdefgh"[: classes - 1]],
        "roi_size": roi_size or [8] * dims,
        "steps": 4,
        **fields,
    }
    return RunSpec(**settings)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_it_is_made_of_the_parts_of_the_paper():
    method = get_method("cdal")
    assert (method.strategy, method.prediction, method.time_sampler) == (ADVERSARIAL, "tanh", "uniform")
    assert (method.steps, method.draws, method.sampler, method.sampler_options) == (4, 5, "ddpm", {})
    segmenter = build_segmenter(spec_of(options=TINY))
    assert segmenter.schedule == cdal_schedule(4)
    assert isinstance(segmenter.prediction, TanhPrediction)


@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (3, 3), (5, 5)])
@pytest.mark.parametrize("dims", [2, 3])
def test_both_networks_agree_on_the_channels_of_a_mask(dims, classes, channels):
    spec = spec_of(dims, classes=classes, options=TINY)
    segmenter, discriminator = build_segmenter(spec), build_discriminator(spec)
    assert segmenter.mask_channels == discriminator.mask_channels == channels
    assert build_cdal_generator(spec, channels, None).head[-1].out_channels == channels


@pytest.mark.parametrize("dims", [2, 3])
def test_it_segments_with_a_latent_of_its_own_for_every_draw(dims):
    segmenter = build_segmenter(spec_of(dims, options=TINY, draws=2))
    for parameter in segmenter.denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    image = torch.randn(1, 1, *[8] * dims)
    result = segmenter.sample(image, cases=["one"])
    torch.testing.assert_close(result.probabilities.sum(dim=1), torch.ones(1, *[8] * dims))
    assert result.variance.max() > 0
    # Algorithm 2 as printed adds no noise on the way: from the same x_T and latents it comes to another end.
    noiseless = build_segmenter(spec_of(dims, options=TINY, draws=2, sampler_options={"variance": "none"}))
    noiseless.load_state_dict(segmenter.state_dict())
    assert not torch.equal(noiseless.sample(image, cases=["one"]).probabilities, result.probabilities)


@pytest.mark.parametrize(
    ("task", "dims", "in_channels", "classes", "weights", "judge"),
    [
        ("monuseg", 2, 3, 2, 41_666_753, 27_736_705),
        ("cxr", 2, 1, 2, 8_843_777, 27_736_705),
        ("hippocampus", 2, 1, 3, 2_691_971, 12_462_849),
        ("vaihingen", 2, 3, 2, 41_666_753, 27_736_705),
    ],
)
def test_networks_of_the_paper_have_its_sizes(task, dims, in_channels, classes, weights, judge):
    spec = spec_of(dims, task=task, size="paper", in_channels=in_channels, classes=classes)
    with torch.device("meta"):
        assert count(build_cdal_generator(spec, 1 if classes == 2 else classes, None)) == weights
        assert count(build_discriminator(spec)) == judge


@pytest.mark.parametrize("task", ["hippocampus", "brats", "monuseg"])
def test_volumes_get_the_narrow_network_at_size_paper(task):
    spec = spec_of(3, task=task, size="paper", classes=3)
    with torch.device("meta"):
        generator = build_cdal_generator(spec, 3, None)
        assert [level[0].conv1.out_channels for level in generator.encoder] == [32, 64, 64, 64]
        assert build_discriminator(spec).factors == [1, 2, 4, 8]


@pytest.mark.parametrize(("dims", "roi_size"), [(2, [256, 256]), (3, [40, 56, 40])])
def test_small_networks_are_small_and_need_no_padding(dims, roi_size):
    spec = spec_of(dims, roi_size=roi_size)
    with torch.device("meta"):
        generator, discriminator = build_cdal_generator(spec, 1, None), build_discriminator(spec)
    assert 1e6 < count(generator) < 6e6
    assert count(discriminator) < 1e6
    assert all(n % generator.size_factor == 0 for n in roi_size)
    assert generator.latent_dim > 0


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize(
    ("task", "roi_size"), [("monuseg", [256] * 2), ("cxr", [256] * 2), ("hippocampus", [40, 56, 40]), ("any", [64] * 2)]
)
def test_every_discriminator_has_the_layer_of_its_task(task, roi_size, size):
    spec = spec_of(len(roi_size), task=task, roi_size=roi_size, size=size)
    with torch.device("meta"):
        factors = build_discriminator(spec).factors
    assert layer_factor(paper_attention_layer(spec), factors, roi_size) in factors


def test_layers_are_those_of_the_papers_best_rows():
    sizes = {"monuseg": (256, 32), "cxr": (256, 16), "hippocampus": (32, 16)}
    for task, (side, length) in sizes.items():
        assert ATTENTION_LAYERS[task] == f"1/{side // length}"


@pytest.mark.parametrize(("task", "steps"), [("monuseg", 4), ("cxr", 2), ("hippocampus", 2), ("brats", 4)])
def test_each_task_has_its_number_of_steps(task, steps):
    method = get_method("cdal")
    assert method.steps_for(task) == steps
    assert build_segmenter(spec_of(task=task, options=TINY, steps=steps)).schedule == cdal_schedule(steps)


def test_going_without_latent_in_several_steps_is_warned_of(caplog):
    options = {**TINY, "latent": False}
    with caplog.at_level(logging.WARNING):
        build_cdal_generator(spec_of(options=options), 1, cdal_schedule(1))
        build_cdal_generator(spec_of(options=TINY), 1, cdal_schedule(4))
        assert not caplog.records
        build_cdal_generator(spec_of(options=options), 1, cdal_schedule(4))
    assert "cDAL without latent in 4 steps" in caplog.text


def test_options_override_what_the_size_sets():
    generator = build_cdal_generator(spec_of(options={"latent_dim": 7}), 1, None)
    assert generator.latent_dim == 7
    assert build_discriminator(spec_of(), channels=(4, 8)).factors == [1, 2]


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(SpecError, match="the cDAL generator has no option 'num_heads'; its options are channels"):
        build_segmenter(spec_of(options={"num_heads": 4}))
    with pytest.raises(SpecError, match=r"options \{'channels': 8\} do not fit the cDAL generator"):
        build_segmenter(spec_of(options={"channels": 8}))
    with pytest.raises(SpecError, match="the cDAL discriminator has no option 'depth'"):
        build_discriminator(spec_of(), depth=3)
    with pytest.raises(SpecError, match=r"options \{'channels': 8\} do not fit the cDAL discriminator"):
        build_discriminator(spec_of(), channels=8)


def test_other_methods_have_no_discriminator():
    with pytest.raises(SpecError, match="method 'recycling' is trained without a discriminator; use cdal"):
        build_discriminator(spec_of(method="recycling"))
