"""The segmenter seen from outside: an ordinary network with settings, training calls and clear refusals."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from medsegdiff.errors import DataError, SpecError
from medsegdiff.networks.codec import OneHotCodec, SingleChannelCodec
from medsegdiff.networks.nets.recycling_unet import RecyclingUNet
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter, share_condition

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (6, 5, 4)


def images(dims: int, batch: int = 2) -> torch.Tensor:
    """Logits of three classes, which are the images of the oracle."""
    return 2 * torch.randn(batch, 3, *SIZE[:dims])


def real_segmenter(**options: object) -> DiffusionSegmenter:
    """A segmenter around the recycling U-Net with few weights."""
    sizes = {"channels": (4, 8), "num_res_blocks": 1, "token_grid": 2, "num_heads": 2, "time_dim": 8}
    denoiser = RecyclingUNet(2, 1, 2, 2, num_train_timesteps=20, **{**sizes, **options})
    return DiffusionSegmenter(
        denoiser, codec=OneHotCodec(2), prediction=build_prediction("logits"), schedule=linear_schedule(20), steps=3
    )


@both_dims
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddpm", {}),
        ("ddpm", {"variance": "beta"}),
        ("ddim", {}),
        ("ddim", {"eta": 0.7}),
        ("dpm_solver++", {}),
    ],
)
def test_a_perfect_denoiser_is_returned_by_every_sampler(make_segmenter, sampler, options, steps, dims):
    segmenter = make_segmenter(sampler=sampler, sampler_options=options, steps=steps, draws=2)
    image = images(dims)
    torch.testing.assert_close(segmenter(image), image.softmax(dim=1), atol=1e-5, rtol=1e-4)
    assert segmenter.sample(image).variance.max() < 1e-9


def test_a_single_channel_gives_two_classes(make_segmenter):
    segmenter = make_segmenter(codec=SingleChannelCodec())
    logit = torch.randn(2, 1, 4, 4)
    expected = torch.cat([1 - logit.sigmoid(), logit.sigmoid()], dim=1)
    torch.testing.assert_close(segmenter(logit), expected, atol=1e-5, rtol=1e-4)


@both_dims
def test_a_supervised_network_segments_in_one_call(make_segmenter, dims):
    segmenter = make_segmenter(schedule=None, draws=5, steps=9)
    image = images(dims)
    result = segmenter.sample(image)
    torch.testing.assert_close(result.probabilities, image.softmax(dim=1), atol=1e-5, rtol=1e-4)
    assert not result.variance.any()
    assert result.draws == 1
    assert segmenter.denoiser.batches == [2]
    assert segmenter.supervised and segmenter.mask_channels == 0
    with pytest.raises(SpecError, match="a supervised network does not sample"):
        segmenter.run_sampler(image, image, lambda _: image)


@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_a_supervised_network_cannot_predict_noise(make_segmenter, name):
    with pytest.raises(SpecError, match=r"cannot predict through .*Prediction; use logits or tanh"):
        make_segmenter(schedule=None, prediction=build_prediction(name))


def test_mask_channels_are_those_of_the_codec(make_segmenter):
    assert make_segmenter().mask_channels == 3
    assert make_segmenter(codec=SingleChannelCodec()).mask_channels == 1


def test_segmenting_has_no_gradient_and_denoising_has(make_segmenter):
    segmenter = make_segmenter(share=0.5)
    image = images(2)
    assert not segmenter(image).requires_grad
    output = segmenter(image, torch.randn_like(image), torch.tensor([3, 4]))
    output.sum().backward()
    assert segmenter.denoiser.share.grad is not None


def test_denoise_reads_what_forward_gives(make_segmenter):
    segmenter = make_segmenter(share=0.5)
    image = images(3)
    x_t, t = torch.randn_like(image), torch.tensor([7, 7])
    x_0 = segmenter.denoise(x_t, t, segmenter.encode(image))
    torch.testing.assert_close(x_0, 2 * segmenter(image, x_t, t).softmax(dim=1) - 1)
    torch.testing.assert_close(segmenter.denoise(x_t, 7, segmenter.encode(image)), x_0)


@pytest.mark.parametrize("training", [True, False])
def test_sampling_evaluates_and_restores_the_mode(make_segmenter, training):
    segmenter = make_segmenter().train(training)
    segmenter(images(2))
    assert segmenter.denoiser.modes == [False] * segmenter.steps
    assert segmenter.training is training and segmenter.denoiser.training is training


def test_parts_that_were_set_to_evaluation_stay_so(make_segmenter):
    segmenter = make_segmenter().train()
    segmenter.denoiser.eval()
    segmenter(images(2))
    assert segmenter.training and not segmenter.denoiser.training


def test_the_mode_is_restored_after_an_error(make_segmenter):
    segmenter = make_segmenter().train()

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmenter.sample(images(2), callback=fail)
    assert segmenter.training


def test_dropout_does_not_disturb_sampling():
    segmenter = real_segmenter(dropout=0.5).train()
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(segmenter(image), segmenter(image))
    x_t, t = torch.randn(1, 2, 8, 8), torch.tensor([3])
    assert not torch.equal(segmenter(image, x_t, t), segmenter(image, x_t, t))


def test_half_precision_inside_gives_float32_probabilities():
    segmenter = real_segmenter()
    image = torch.randn(1, 1, 8, 8)
    full = segmenter(image)
    segmenter.amp = "bf16"
    half = segmenter(image)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1


def test_weights_are_those_of_the_denoiser_and_survive_the_round_trip():
    one, other = real_segmenter(), real_segmenter()
    image = torch.randn(1, 1, 8, 8)
    assert not torch.equal(one(image), other(image))
    assert {name.split(".")[0] for name in one.state_dict()} == {"denoiser"}
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(image), other(image))


@both_dims
def test_monai_inferers_take_it_unchanged(make_segmenter, dims):
    segmenter = make_segmenter(steps=2)
    image = images(dims, batch=1)
    whole = segmenter(image)
    torch.testing.assert_close(SimpleInferer()(image, segmenter), whole)
    for mode in ("constant", "gaussian"):
        windows = SlidingWindowInferer((4,) * dims, sw_batch_size=3, overlap=0.5, mode=mode)
        torch.testing.assert_close(windows(image, segmenter), whole, atol=1e-5, rtol=1e-4)
    meta = MetaTensor(image, meta={"filename_or_obj": ["scan.nii.gz"]})
    torch.testing.assert_close(torch.as_tensor(SimpleInferer()(meta, segmenter)), whole, atol=1e-5, rtol=1e-4)


def test_settings_can_be_changed_after_construction(make_segmenter):
    segmenter = make_segmenter()
    segmenter.set_sampling(sampler="ddim", sampler_options={"eta": 0.5}, steps=3, draws=4, draws_per_batch=2, seed=9)
    assert (segmenter.sampler, segmenter.steps, segmenter.draws) == ("ddim", 3, 4)
    assert (segmenter.draws_per_batch, segmenter.seed) == (2, 9)
    assert segmenter.sampler_options == {"eta": 0.5}
    segmenter.set_sampling(steps=2)
    assert (segmenter.sampler, segmenter.sampler_options, segmenter.draws) == ("ddim", {"eta": 0.5}, 4)
    segmenter.set_sampling(sampler="ddim")
    assert segmenter.sampler_options == {"eta": 0.5}


def test_another_sampler_forgets_the_options_of_the_first(make_segmenter):
    segmenter = make_segmenter(sampler="ddim", sampler_options={"eta": 0.5})
    segmenter.set_sampling(sampler="ddpm")
    assert segmenter.sampler_options == {}
    segmenter(images(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "euler"}, "there is no sampler 'euler': choose one of ddpm, ddim, dpm_solver"),
        ({"steps": 0}, "cannot visit 0 timesteps"),
        ({"steps": 51}, "cannot visit 51 timesteps"),
        ({"draws": 0}, "draws is 0; give at least 1"),
        ({"draws_per_batch": -1}, "draws_per_batch is -1; give at least 1"),
        ({"sampler_options": {"eta": 0.5}}, "sampler 'ddpm' has no option 'eta'; its options are variance"),
        ({"sampler": "dpm_solver++", "sampler_options": {"eta": 1}}, "has no option 'eta'; its options are none"),
    ],
)
def test_settings_that_do_not_exist_are_refused_and_change_nothing(make_segmenter, settings, message):
    with pytest.raises(SpecError, match=message):
        make_segmenter(**settings)
    segmenter = make_segmenter()
    before = dict(vars(segmenter))
    with pytest.raises(SpecError, match=message):
        segmenter.set_sampling(**settings)
    assert vars(segmenter) == before


def test_images_that_do_not_fit_are_refused():
    segmenter = real_segmenter()
    with pytest.raises(DataError, match=r"shape \(1, 1, 8, 8, 8\); this network takes \(batch, channel, 2 spatial"):
        segmenter(torch.randn(1, 1, 8, 8, 8))
    with pytest.raises(DataError, match="an image of 3 channels; this network was built for 1"):
        segmenter(torch.randn(1, 3, 8, 8))


def test_names_that_do_not_match_the_batch_are_refused(make_segmenter):
    with pytest.raises(DataError, match="got 1 case names for 2 images; give one for each"):
        make_segmenter().sample(images(2), cases=["a"])


def test_half_a_denoising_call_is_refused(make_segmenter):
    segmenter, image = make_segmenter(), images(2)
    with pytest.raises(SpecError, match="x_t without timesteps; give both to denoise, neither to segment"):
        segmenter(image, image)
    with pytest.raises(SpecError, match="timesteps without x_t; give both to denoise, neither to segment"):
        segmenter(image, timesteps=torch.tensor([1, 2]))


def test_a_shared_condition_stands_beside_each_draw():
    condition = torch.randn(2, 3, 4, 4)
    shared = share_condition(condition, 3)
    assert torch.equal(shared, condition.repeat_interleave(3, dim=0))
    one = condition[:1].contiguous()
    assert share_condition(one, 3).data_ptr() == one.data_ptr()


def test_it_is_a_plain_module_to_copy_and_move(make_segmenter):
    segmenter = make_segmenter(share=0.1)
    assert isinstance(segmenter, nn.Module)
    assert [name for name, _ in segmenter.named_parameters()] == ["denoiser.share"]
