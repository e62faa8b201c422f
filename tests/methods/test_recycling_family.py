"""The networks that the methods of the recycling paper build."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.methods import METHODS, build_segmenter, get_method
from medsegdiff.networks.nets.recycling_unet import RecyclingUNet
from medsegdiff.networks.schedulers import build_schedule

PAPER = ["supervised", "diffusion", "recycling", "recycling_next", "self_conditioning", "self_conditioning_next"]
LINEAR = build_schedule("linear")


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def build(spec, masks: int = 3, schedule=LINEAR):
    with torch.device("meta"):
        return get_method("diffusion").build_denoiser(spec, masks, schedule)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", PAPER)
def test_every_method_segments(make_spec, name, dims):
    segmenter = build_segmenter(make_spec(dims, method=name))
    assert segmenter.supervised == (name == "supervised")
    assert segmenter.denoiser.self_conditioning == name.startswith("self_conditioning")
    size = (7, 6, 3)[:dims]
    probabilities = segmenter(torch.randn(2, 2, *size))
    assert probabilities.shape == (2, 3, *size)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, *size))


def test_the_schedule_is_the_paper_s():
    for name in set(PAPER) - {"supervised"}:
        settings = dict(METHODS[name].schedule)
        schedule = build_schedule(settings.pop("name"), **settings)
        assert schedule.num_train_timesteps == 1001
        root = schedule.alphas_cumprod.sqrt()
        assert root[0].item() == pytest.approx(0.99995, abs=1e-5)
        assert root[-1].item() == pytest.approx(0.00632, abs=1e-5)


def test_the_paper_s_size_is_that_of_table_7(make_spec):
    """Muscle ultrasound: the published count plus the second time projection of each block."""
    spec = make_spec(size="paper", options={}, roi_size=[480, 512], in_channels=1, class_names=["background", "muscle"])
    assert parameters(build(spec, masks=2)) == 13_335_554 + 748_384
    assert build(spec, masks=2).transformer.position.shape == (1, 256, 60, 64)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_small_size_trains_on_a_cpu(make_spec, dims):
    network = build(make_spec(dims, options={}, roi_size=[48, 64, 48][:dims]))
    assert 1e6 < parameters(network) < 7e6


def test_tokens_follow_the_size_that_it_is_trained_at(make_spec):
    grid = build(make_spec(3, options={}, roi_size=[48, 60, 5])).transformer.position.shape[2:]
    assert tuple(grid) == (6, 8, 2)
    given = build(make_spec(3, options={"token_grid": 3})).transformer.position.shape[2:]
    assert tuple(given) == (3, 3, 3)


@pytest.mark.parametrize("mask_input", ["raw", "clipped", "scaled"])
def test_the_noisy_mask_comes_in_as_asked(make_spec, mask_input):
    network = build_segmenter(make_spec(options={**make_spec().options, "mask_input": mask_input})).denoiser
    raw = build_segmenter(make_spec(options={**make_spec().options, "mask_input": "raw"})).denoiser
    raw.load_state_dict(network.state_dict())
    x_t, t, image = 2 * torch.randn(2, 3, 8, 6), torch.tensor([0, 700]), torch.randn(2, 2, 8, 6)
    seen = {
        "raw": x_t,
        "clipped": (x_t.clamp(-1, 1) + 1) / 2,
        "scaled": x_t * LINEAR.alphas_cumprod[t].sqrt().float().view(2, 1, 1, 1),
    }[mask_input]
    torch.testing.assert_close(network(x_t, t, image), raw(seen, t, image))


def test_options_reach_the_network(make_spec):
    options = {"transformer": False, "gradient_checkpointing": True, "channels": (8, 16, 16), "num_res_blocks": 1}
    network = build(make_spec(options=options))
    assert isinstance(network, RecyclingUNet)
    assert network.gradient_checkpointing
    assert isinstance(network.transformer, torch.nn.Identity)
    assert len(network.encoder) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "options .*depth.* do not fit the recycling U-Net"),
        ({"channels": 64}, "options .*channels.* do not fit the recycling U-Net"),
        ({"self_conditioning": True}, "do not fit the recycling U-Net"),
        ({"mask_input": "half"}, "mask_input 'half' does not exist; use one of raw, clipped, scaled"),
        ({"norm": "batch"}, "norm 'batch' does not exist"),
        ({"channels": [8, 16], "num_res_blocks": [1, 1, 1]}, "num_res_blocks has 3 entries for 2 levels"),
    ],
)
def test_options_that_do_not_fit_are_refused(make_spec, options, message):
    with pytest.raises(SpecError, match=message):
        build(make_spec(options=options))
