"""Segmenters from specifications, and weights out and in."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import DataError, SpecError, WeightsError
from medsegdiff.methods import RunSpec, build_segmenter, load_segmenter, load_state, save_weights, spec_path


@pytest.fixture
def saved(make_spec, tmp_path):
    """A segmenter whose weights fp16 holds exactly, and the file that they were written to."""
    spec = make_spec()
    segmenter = build_segmenter(spec).eval()
    segmenter.load_state_dict({k: v.half().float() for k, v in segmenter.state_dict().items()})
    path = tmp_path / "run" / "model.pt"
    save_weights(segmenter.state_dict(), spec, path)
    return segmenter, path


def test_settings_of_the_specification_reach_the_segmenter(make_spec):
    spec = make_spec(
        schedule={"name": "cosine", "num_train_timesteps": 50},
        sampler="ddim",
        sampler_options={"eta": 0.5},
        steps=4,
        draws=3,
    )
    segmenter = build_segmenter(spec, seed=8, amp="bf16")
    assert (segmenter.schedule.name, segmenter.schedule.num_train_timesteps) == ("cosine", 50)
    assert (segmenter.sampler, segmenter.sampler_options) == ("ddim", {"eta": 0.5})
    assert (segmenter.steps, segmenter.draws, segmenter.seed, segmenter.amp) == (4, 3, 8, "bf16")
    assert spec.schedule == {"name": "cosine", "num_train_timesteps": 50}


@pytest.mark.parametrize("clip", [False, True])
def test_a_run_may_clip_what_follows_from_the_noise(make_spec, clip):
    options = {"channels": [8, 8], "num_res_blocks": 1, "num_rrdbs": 1, "rrdb_channels": 8, "rrdb_growth": 4}
    spec = make_spec(method="segdiff", options=options, prediction_options={"name": "epsilon", "clip_x_0": clip})
    segmenter = build_segmenter(spec)
    x_t, condition = torch.full((1, 3, 8, 6), 30.0), segmenter.encode(torch.zeros(1, 2, 8, 6))
    with torch.no_grad():  # fresh, it predicts no noise at all
        x_0 = segmenter.denoise(x_t, 50, condition)
    assert (x_0.max() <= 1) == clip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "recycle"}, "method 'recycle' does not exist"),
        ({"sampler": "euler"}, "there is no sampler 'euler'"),
        ({"sampler_options": {"eta": 1}}, "has no option 'eta'"),
        ({"steps": 0}, "cannot visit 0 timesteps"),
        ({"schedule": {"name": "quadratic"}}, "there is no noise schedule 'quadratic'"),
        ({"schedule": {"num_train_timesteps": 5}}, "schedule .* has no name"),
        ({"draws": 0}, "draws is 0"),
    ],
)
def test_what_does_not_exist_is_refused(make_spec, changes, message):
    with pytest.raises(SpecError, match=message):
        build_segmenter(make_spec(**changes))


def test_weights_are_flat_half_precision_tensors_and_nothing_else(saved):
    segmenter, path = saved
    state = torch.load(path, weights_only=True)
    assert set(state) == set(segmenter.state_dict())
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.json", "model.pt"]
    assert spec_path(path) == path.parent / "model.json"


def test_loaded_weights_segment_as_those_that_were_saved(saved):
    segmenter, path = saved
    loaded = load_segmenter(path, method="recycling", size=None)
    assert not loaded.training
    image = torch.randn(1, 2, 8, 6)
    assert torch.equal(loaded(image), segmenter(image))
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_whole_numbers_keep_their_type(make_spec, tmp_path):
    save_weights({"count": torch.tensor(3), "weight": torch.ones(2)}, make_spec(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["count"].dtype == torch.int64
    assert state["weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("wanted", "field"), [({"method": "diffusion"}, "method"), ({"size": "paper"}, "size"), ({"task": "b"}, "task")]
)
def test_weights_of_another_run_are_refused(saved, wanted, field):
    with pytest.raises(WeightsError, match=f"model.pt was trained with {field}="):
        load_segmenter(saved[1], **wanted)


def test_weights_that_do_not_fit_their_specification_are_refused(saved, make_spec):
    _, path = saved
    make_spec(options={**make_spec().options, "channels": [8, 24]}).write(spec_path(path))
    with pytest.raises(WeightsError, match=r"does not fit the network: .* has \(.*\) in the file and \(.*\) in the"):
        load_segmenter(path)
    make_spec(options={**make_spec().options, "transformer": False}).write(spec_path(path))
    with pytest.raises(WeightsError, match=r"transformer.* in the file and nothing in the network"):
        load_segmenter(path)
    make_spec(method="self_conditioning").write(spec_path(path))
    with pytest.raises(WeightsError, match=r"stem.*the weights are of another method, size or task"):
        load_segmenter(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, share):
    _, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=r"model.pt cannot be read as weights \(.*\); copy or train"):
        load_segmenter(path)


def test_files_that_are_no_weights_are_refused(saved):
    segmenter, path = saved
    path.write_text("these are no weights")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_segmenter(path)
    for other in ({"network": {"a": torch.ones(1)}, "epoch": 3}, [torch.ones(1)], {"a": 1}, torch.ones(2)):
        torch.save(other, path)
        with pytest.raises(WeightsError, match="holds something else than the weights of one network"):
            load_state(segmenter, path)
    torch.save(segmenter, path)  # a pickled module could run code
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_state(segmenter, path)


def test_missing_files_are_named(saved):
    _, path = saved
    path.unlink()
    with pytest.raises(WeightsError, match=r"model.pt does not exist; train first, or give the path of a model.pt"):
        load_segmenter(path)
    spec_path(path).unlink()
    with pytest.raises(WeightsError, match=r"model.json does not exist"):
        load_segmenter(path)


def test_a_refused_file_leaves_the_network_as_it_was(saved, tmp_path):
    segmenter, _ = saved
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in before.items()}
    state.popitem()
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="nothing in the file"):
        load_state(segmenter, tmp_path / "other.pt")
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def test_nothing_is_left_behind_where_writing_fails(make_spec, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    spec = make_spec()
    save_weights({"weight": torch.zeros(2)}, spec, path)

    def fail(state: object, file: object) -> None:
        with open(file, "wb") as partial:
            partial.write(b"half")
        msg = "no space left on device"
        raise OSError(msg)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(DataError, match=r"model.pt cannot be written .*no space left"):
        save_weights({"weight": torch.ones(2)}, spec, path)
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.pt"]
    assert torch.load(path, weights_only=True)["weight"].sum() == 0
    assert RunSpec.read(spec_path(path)) == spec


@pytest.mark.parametrize("dims", [2, 3])
def test_the_memory_layout_does_not_change_the_weights_nor_the_result(make_spec, dims):
    """3-D networks with group norm are laid out with channels last, which is quicker."""
    spec = make_spec(dims)
    segmenter = build_segmenter(spec)
    convolution = segmenter.denoiser.bottleneck[0].conv1.weight
    assert convolution.is_contiguous() == (dims == 2)
    plain = build_segmenter(spec)
    plain.load_state_dict(segmenter.state_dict())
    plain.to(memory_format=torch.contiguous_format)
    image = torch.randn(1, 2, 8, 6, 4)[..., 0] if dims == 2 else torch.randn(1, 2, 8, 6, 4)
    torch.testing.assert_close(segmenter(image), plain(image), atol=1e-5, rtol=1e-4)


def test_training_starts_from_the_weights_of_a_run_like_it(saved, make_spec):
    segmenter, path = saved
    started = build_segmenter(make_spec(), init_weights=path)
    for name, value in started.state_dict().items():
        assert torch.equal(value, segmenter.state_dict()[name]), name


def test_a_network_that_samples_starts_from_a_supervised_one(make_spec, tmp_path, caplog):
    spec = make_spec(method="supervised")
    supervised = build_segmenter(spec)
    save_weights(supervised.state_dict(), spec, tmp_path / "supervised.pt")
    with caplog.at_level("INFO"):
        started = build_segmenter(make_spec(method="recycling"), init_weights=tmp_path / "supervised.pt")
    state, own = torch.load(tmp_path / "supervised.pt", weights_only=True), started.state_dict()
    entrance = "denoiser.stem.0.weight"
    for name in state.keys() - {entrance}:
        assert torch.equal(own[name], state[name].float()), name
    assert own[entrance].shape[1] == 5
    assert torch.equal(own[entrance][:, :2], state[entrance].float())
    assert not own[entrance][:, 2:].any()  # "small" starts blind to the mask
    fresh = [name for name in own if name not in state]
    assert all("time_projection" in name for name in fresh)
    assert f"{len(state) - 1} tensors taken, 1 in part, {len(fresh)} fresh" in caplog.text


def test_weights_of_another_architecture_are_nothing_to_start_from(make_spec, tmp_path):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="has nothing for this network; give weights of the same architecture"):
        build_segmenter(make_spec(), init_weights=tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="does not exist"):
        build_segmenter(make_spec(), init_weights=tmp_path / "none.pt")
