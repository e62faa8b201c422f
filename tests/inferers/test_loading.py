from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError, WeightsError
from medsegdiff.inferers.describe import describe_fusion, describe_members, sampling_settings
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.loading import find_weights, load_network, resolve_device, trained_size
from medsegdiff.inferers.slicewise import SlicewiseSegmenter
from medsegdiff.methods import RunSpec, build_segmenter, save_weights
from medsegdiff.networks.segmenter import DiffusionSegmenter

TINY = {"channels": [8, 8], "num_res_blocks": 0, "transformer": False}


def _spec(method="recycling", **changes):
    spec = RunSpec(
        task="toy",
        method=method,
        size="small",
        spatial_dims=2,
        in_channels=1,
        class_names=["background", "thing"],
        roi_size=[8, 8],
        options=TINY,
    )
    return spec.replace(**changes)


def _write(path, spec):
    path.parent.mkdir(exist_ok=True)
    save_weights(build_segmenter(spec).state_dict(), spec, path)
    return path


@pytest.fixture
def bundle(tmp_path):
    _write(tmp_path / "models" / "model.pt", _spec())
    _write(tmp_path / "models" / "supervised.pt", _spec("supervised"))
    (tmp_path / "models" / "stray.pt").touch()  # no specification: none of ours
    return tmp_path


def test_weights_sample_as_they_were_validated_unless_told_otherwise(tmp_path):
    path = _write(tmp_path / "model.pt", _spec(sampler="ddim", sampler_options={"eta": 0.5}, steps=3, draws=2))
    kept = load_network(path)
    assert (kept.sampler, kept.sampler_options, kept.steps, kept.draws) == ("ddim", {"eta": 0.5}, 3, 2)
    changed = load_network(path, sampler="ddpm", steps=4, draws=5, seed=6)
    assert (changed.sampler, changed.sampler_options, changed.steps, changed.draws) == ("ddpm", {}, 4, 5)
    assert changed.seed == 6 and not changed.training
    assert load_network(path, sampler_options={"eta": 1.0}).sampler_options == {"eta": 1.0}


def test_x_0_is_clipped_on_request_where_the_network_predicts_noise(tmp_path):
    options = {"channels": [8, 8], "num_res_blocks": 1, "num_rrdbs": 1, "rrdb_channels": 8, "rrdb_growth": 4}
    spec = _spec(method="segdiff", options=options, prediction_options={"name": "epsilon"})
    path = _write(tmp_path / "model.pt", spec)
    assert not load_network(path).prediction.clip_x_0
    assert load_network(path, clip_x_0=True).prediction.clip_x_0
    assert not load_network(path, clip_x_0="false").prediction.clip_x_0  # as the command line hands it over
    classes = _write(tmp_path / "classes.pt", _spec())
    with pytest.raises(SpecError, match="clip_x_0 is True, but what this network predicts lies between -1 and 1"):
        load_network(classes, clip_x_0=True)


def test_several_weights_make_an_ensemble(bundle):
    network = load_network(find_weights(bundle, ensemble=True), draws=2)
    assert isinstance(network, EnsembleSegmenter)
    assert [member.supervised for member in network.segmenters] == [False, True]
    assert network(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_windows_have_the_size_that_the_weights_were_trained_on(bundle):
    weights = find_weights(bundle)
    assert trained_size(weights, [64, 60]) == trained_size([weights, "other.pt"], [64, 60]) == [8, 8]
    assert trained_size(weights, [40, 56, 40]) == [8, 8, 40]  # slices of volumes
    assert trained_size("none.pt", [40, 56, 40]) == [40, 56, 40]


def test_a_list_of_one_is_no_ensemble(bundle):
    assert not isinstance(load_network([find_weights(bundle)]), EnsembleSegmenter)


def test_weights_of_folds_make_an_ensemble(tmp_path):
    files = []
    for fold in range(3):
        torch.manual_seed(fold)  # each fold has weights of its own
        files.append(_write(tmp_path / f"fold{fold}.pt", _spec(steps=2)))
    network, image = load_network(files, draws=2, seed=5), torch.randn(1, 1, 8, 8)
    assert isinstance(network, EnsembleSegmenter) and network.fusion == "mean" and not network.training
    alone = [load_network(file, draws=2, seed=5).sample(image, cases=["a"]).probabilities for file in files]
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    result = network.sample(image, cases=["a"])
    torch.testing.assert_close(result.probabilities, sum(alone) / 3)
    assert result.draws == 6
    assert [member["weights"] for member in describe_members(network, files)] == [str(file) for file in files]
    row = sampling_settings(network, files, seed=5)
    assert (row["method"], row["draws"], row["fusion"]) == ("recycling", 2, "mean")


@pytest.mark.parametrize("fusion", ["majority", "staple"])
class TestFusion:
    def test_several_weights_are_fused_as_members(self, bundle, fusion):
        files = find_weights(bundle, ensemble=True)
        network = load_network(files, fusion=fusion)
        assert (network.fusion, network.fuse_draws) == (fusion, False)
        assert describe_fusion(network) == {"fusion": fusion}
        assert sampling_settings(network, files, seed=0)["fusion"] == fusion
        assert network(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)

    def test_their_draws_are_fused_on_request(self, bundle, fusion):
        network = load_network(find_weights(bundle, ensemble=True), fusion=fusion, fuse_draws=True, draws=3)
        assert network.fuse_draws and describe_fusion(network) == {"fusion": fusion, "fuse_draws": True}

    def test_a_single_network_has_its_draws_fused(self, bundle, fusion):
        network = load_network(find_weights(bundle), fusion=fusion, draws=3, steps=2)
        assert isinstance(network, EnsembleSegmenter) and network.fuse_draws and len(network.segmenters) == 1
        result = network.sample(torch.randn(1, 1, 8, 8))
        assert result.draws == 3 and result.probabilities.shape == (1, 2, 8, 8)
        assert len(describe_members(network, find_weights(bundle))) == 1

    def test_volumes_by_2d_weights_too(self, bundle, fusion):
        network = load_network(find_weights(bundle), fusion=fusion, draws=2, steps=2, spatial_dims=3)
        assert network(torch.randn(1, 1, 8, 8, 3)).shape == (1, 2, 8, 8, 3)

    def test_one_draw_is_refused_at_once(self, bundle, fusion):
        with pytest.raises(SpecError, match=f"got 1 label map to fuse by {fusion}"):
            load_network(find_weights(bundle), fusion=fusion, draws=1)
        with pytest.raises(SpecError, match="got an ensemble of 1"):
            load_network(find_weights(bundle), fusion=fusion, draws=3, fuse_draws=False)


def test_the_mean_of_one_network_is_itself(bundle):
    network = load_network(find_weights(bundle), fusion="mean")
    assert isinstance(network, DiffusionSegmenter) and describe_fusion(network) == {}


def test_2d_weights_go_through_volumes_slice_by_slice(bundle):
    path, image = find_weights(bundle), torch.randn(1, 1, 8, 8, 5)
    network = load_network(path, spatial_dims=3, slices_per_batch=2, draws=3, seed=4)
    assert isinstance(network, SlicewiseSegmenter) and not network.training
    assert (network.slices_per_batch, network.draws, network.seed) == (2, 3, 4)
    expected = SlicewiseSegmenter(load_network(path, draws=3, seed=4))(image)
    torch.testing.assert_close(network(image), expected)


def test_2d_members_make_an_ensemble_for_volumes(bundle):
    files = find_weights(bundle, ensemble=True)
    network = load_network(files, spatial_dims=3, draws=2)
    assert isinstance(network, EnsembleSegmenter) and len(network.segmenters) == 2
    assert network(torch.randn(1, 1, 8, 8, 3)).shape == (1, 2, 8, 8, 3)
    row = sampling_settings(network, files, seed=0)
    assert (row["method"], row["draws"]) == ("recycling+supervised", 2)


def test_weights_for_images_of_their_own_kind_are_not_wrapped(bundle):
    assert isinstance(load_network(find_weights(bundle), spatial_dims=2), DiffusionSegmenter)
    path = _write(bundle / "models" / "volumes.pt", _spec(spatial_dims=3, roi_size=[8, 8, 8]))
    assert isinstance(load_network(path, spatial_dims=3), DiffusionSegmenter)
    with pytest.raises(SpecError, match="got a network of 3 spatial axes for images of 2"):
        load_network(path, spatial_dims=2)


def test_members_of_other_axes_need_to_know_those_of_the_image(bundle):
    path = _write(bundle / "models" / "volumes.pt", _spec(spatial_dims=3, roi_size=[8, 8, 8]))
    with pytest.raises(SpecError, match=r"volumes.pt has spatial_dims=3 .* members of an ensemble must agree"):
        load_network([find_weights(bundle), path])


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ({}, "model.pt"),
        ({"method": "recycling"}, "model.pt"),
        ({"method": "supervised"}, "supervised.pt"),
        ({"method": "supervised", "size": "small"}, "supervised.pt"),
        ({"method": "diffusion"}, "model.pt"),
        ({"size": "paper"}, "model.pt"),
    ],
)
def test_a_method_finds_its_weights_where_there_are_any(bundle, wanted, name):
    assert find_weights(bundle, **wanted) == str(bundle / "models" / name)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"method": "diffusion"}, WeightsError, "trained with method='recycling', but method='diffusion' is asked for"),
        (
            {"method": "magic"},
            SpecError,
            "method 'magic' does not exist; use one of .*supervised, diffusion, recycling",
        ),
        ({"size": "paper"}, WeightsError, "trained with size='small', but size='paper'"),
        ({"size": "huge"}, SpecError, "size 'huge' does not exist; use one of small, paper"),
        ({"sampler": "magic"}, SpecError, "no sampler 'magic'"),
        ({"draws": 0}, SpecError, "draws is 0"),
        ({"fusion": "vote"}, SpecError, "fusion 'vote' does not exist; use one of mean, majority, staple"),
        ({"fuse_draws": True}, SpecError, "fuse_draws is for label maps"),
        ({"amp": "half"}, SpecError, "amp 'half' does not exist"),
        ({"amp": "fp16"}, SpecError, "amp 'fp16' was asked for on a CPU"),
        ({"device": "abacus"}, SpecError, "device 'abacus' cannot be used on this machine; use auto, cpu"),
    ],
)
def test_settings_that_do_not_fit_are_refused(bundle, options, kind, message):
    with pytest.raises(kind, match=message):
        load_network(find_weights(bundle), **options)


def test_weights_that_are_missing_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.pt is no file; give the path of a model\.pt"):
        load_network(find_weights(tmp_path))


@pytest.mark.parametrize(
    ("other", "message"),
    [({"task": "cats"}, "task='cats'"), ({"class_names": ["background", "other"]}, "class_names=")],
)
def test_members_of_different_tasks_are_refused(bundle, other, message):
    path = _write(bundle / "models" / "other.pt", _spec(**other))
    with pytest.raises(SpecError, match=f"other.pt has {message}.*members of an ensemble must agree"):
        load_network([find_weights(bundle), path])


def test_an_ensemble_of_one_is_refused(tmp_path):
    _write(tmp_path / "models" / "model.pt", _spec())
    with pytest.raises(WeightsError, match="holds 1 weights files; an ensemble needs two or more"):
        find_weights(tmp_path, ensemble=True)


def test_auto_is_a_device_that_works():
    torch.empty(1, device=resolve_device("auto"))
    assert resolve_device(torch.device("cpu")).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(SpecError, match="device 'cuda' cannot be used on this machine"):
        resolve_device("cuda")
