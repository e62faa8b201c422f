"""Exports: a trace is the sampler itself, with its noise as an input."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import DataError
from medsegdiff.methods import RunSpec, build_segmenter
from medsegdiff.networks.export import TraceableSampler, export_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
SIDES = (9, 8, 7)  # some of them padded inside


@pytest.fixture
def make_segmenter():
    def make(dims=2, *, method="recycling", sampler="ddpm", amp="off", **sampler_options):
        torch.manual_seed(3)
        spec = RunSpec(
            task="test",
            method=method,
            size="small",
            spatial_dims=dims,
            in_channels=2,
            class_names=["background", "first", "second"],
            roi_size=SIDES[:dims],
            options={"channels": [8, 8, 8], "num_res_blocks": 0, "norm": "group", "mask_gain": 1.0},
            sampler=sampler,
            sampler_options=sampler_options,
            steps=3,
        )
        return build_segmenter(spec, amp=amp)

    return make


@pytest.fixture
def exported(tmp_path):
    """Export, load again from the file."""

    def export(segmenter, dims):
        path = tmp_path / "model.ts"
        export_torchscript(segmenter, path, spatial_shape=SIDES[:dims], image_channels=2)
        assert [file.name for file in tmp_path.iterdir()] == ["model.ts"]
        return torch.jit.load(path)

    return export


def image_of(dims: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 2, *SIDES[:dims], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("method", "sampler", "options"),
    [
        ("recycling", "ddpm", {}),
        ("self_conditioning", "ddim", {"eta": 0.5}),
        ("diffusion", "dpm_solver++", {}),
    ],
)
def test_a_trace_gives_fresh_results_for_fresh_inputs(make_segmenter, exported, dims, method, sampler, options):
    segmenter = make_segmenter(dims, method=method, sampler=sampler, **options)
    traced, eager = exported(segmenter, dims), TraceableSampler(segmenter)
    results = []
    for name in ("one", "another"):
        noise = eager.noise_inputs(SIDES[:dims], cases=[name])
        assert noise[0].shape == (1, 3, *SIDES[:dims])
        assert noise[1].shape == (3, 1, 3, *SIDES[:dims])
        results.append(traced(image_of(dims), *noise))
        torch.testing.assert_close(results[-1], eager(image_of(dims), *noise), rtol=0, atol=1e-6)
        # Which is what the segmenter itself makes of a case of that name.
        own = segmenter.sample(image_of(dims), cases=[name]).probabilities
        torch.testing.assert_close(results[-1], own, rtol=0, atol=1e-6)
    assert (results[0] - results[1]).abs().max() > 1e-3
    other = traced(image_of(dims, seed=1), *noise)
    assert (other - results[1]).abs().max() > 1e-3
    torch.testing.assert_close(other.sum(dim=1), torch.ones(1, *SIDES[:dims]))


def test_the_noise_of_each_step_counts(make_segmenter, exported):
    segmenter = make_segmenter()
    traced = exported(segmenter, 2)
    x_T, noises = TraceableSampler(segmenter).noise_inputs(SIDES[:2])
    before = traced(image_of(2), x_T, noises)
    for step, matters in enumerate((True, True, False)):  # the last step adds none
        changed = noises.clone()
        changed[step] *= -1
        assert torch.equal(before, traced(image_of(2), x_T, changed)) is not matters


@pytest.mark.parametrize("dims", [2, 3])
def test_a_supervised_network_takes_the_image_alone(make_segmenter, exported, dims):
    segmenter = make_segmenter(dims, method="supervised")
    assert TraceableSampler(segmenter).noise_inputs(SIDES[:dims]) == ()
    traced = exported(segmenter, dims)
    torch.testing.assert_close(traced(image_of(dims)), segmenter(image_of(dims)), rtol=0, atol=1e-6)


def test_it_is_traced_in_full_precision(make_segmenter, exported):
    half, full = make_segmenter(amp="bf16"), make_segmenter(amp="off")
    traced, eager = exported(half, 2), TraceableSampler(full)
    noise = eager.noise_inputs(SIDES[:2])
    torch.testing.assert_close(traced(image_of(2), *noise), eager(image_of(2), *noise), rtol=0, atol=1e-6)
    assert half.amp == "bf16"


def test_later_settings_of_the_segmenter_change_nothing(make_segmenter):
    segmenter = make_segmenter()
    sampler = TraceableSampler(segmenter)
    noise = sampler.noise_inputs(SIDES[:2])
    before = sampler(image_of(2), *noise)
    segmenter.set_sampling(sampler="ddim", steps=2)
    assert torch.equal(before, sampler(image_of(2), *noise))


def test_the_segmenter_keeps_its_mode_and_its_gradients(make_segmenter, exported):
    segmenter = make_segmenter().train()
    exported(segmenter, 2)
    assert segmenter.denoiser.training
    assert all(p.requires_grad for p in segmenter.parameters())


def test_a_result_carries_no_gradient(make_segmenter, exported):
    traced = exported(make_segmenter(), 2)
    noise = TraceableSampler(make_segmenter()).noise_inputs(SIDES[:2])
    assert not traced(image_of(2), *noise).requires_grad


def test_noise_that_does_not_fit_is_refused(make_segmenter):
    sampler = TraceableSampler(make_segmenter())
    x_T, noises = sampler.noise_inputs(SIDES[:2])
    with pytest.raises(DataError, match="takes x_T and the noises of 3 steps; give both"):
        sampler(image_of(2))
    with pytest.raises(DataError, match="noises of 3 steps"):
        sampler(image_of(2), x_T, noises[:2])
    with pytest.raises(DataError, match="noise for a supervised network; give the image"):
        TraceableSampler(make_segmenter(method="supervised"))(image_of(2), x_T, noises)


def test_a_file_that_cannot_be_written_is_one_line(make_segmenter, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        export_torchscript(
            make_segmenter(method="supervised"),
            tmp_path / "file" / "model.ts",
            spatial_shape=SIDES[:2],
            image_channels=2,
        )
