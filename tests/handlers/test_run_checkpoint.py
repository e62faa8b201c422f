"""Checkpoints: a run that was interrupted ends as one that was not, and nothing is ever half written."""

from __future__ import annotations

import errno
import functools
import re
from types import MappingProxyType

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.transforms import AsDiscreted, RandAffined, RandGaussianNoised

from medsegdiff.engines.learning_rate import warmup_cosine
from medsegdiff.errors import DataError, SpecError
from medsegdiff.handlers.run_checkpoint import CHECKPOINT_NAME, RunCheckpoint
from medsegdiff.handlers.validation import SamplerValidation
from medsegdiff.losses.segmentation import RegressionLoss, SegmentationLoss

EPOCHS = 4


class Killed(Exception):
    """What ends a run from outside."""


@pytest.fixture
def make_run(make_trainer, training_items):
    """A trainer with augmentation, dropout, EMA, a changing learning rate, validation, early stop and checkpoints."""

    def make(
        run_dir,
        *,
        resume=False,
        dims=2,
        epochs=1,
        interval=1,
        patience=10,
        min_delta=0.5,
        samples=6,
        split=None,
        options=None,
        optimizer=torch.optim.AdamW,
        time_sampler_options=MappingProxyType({"bins": 5}),
        extra=None,
        **more,
    ):
        trainer = make_trainer(
            dims=dims,
            samples=samples,
            max_epochs=epochs,
            transforms=(
                RandAffined(["image", "label"], prob=0.8, rotate_range=0.4, mode=["bilinear", "nearest"]),
                RandGaussianNoised("image", prob=0.5),
            ),
            network_options={"dropout": 0.2, **(options or {})},
            optimizer=optimizer,
            schedule_rate=lambda optimizer: warmup_cosine(optimizer, total_steps=12),
            time_sampler_options=time_sampler_options,
            **more,
        )
        trainer.spec = trainer.spec.replace(split=split)
        network = trainer.ema.module
        validator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(Dataset(training_items(2, dims=dims)), batch_size=1),
            network=network,
            postprocessing=AsDiscreted("pred", argmax=True),
            key_val_metric={
                "val_mean_dice": MeanDice(
                    include_background=False, num_classes=3, output_transform=from_engine(["pred", "label"])
                )
            },
        )
        validation = SamplerValidation(
            validator,
            network,
            run_dir,
            trainer.spec,
            samplers=[] if network.supervised else ["ddim"],
            patience=patience,
            min_delta=min_delta,
        )
        checkpoint = RunCheckpoint(
            run_dir, trainer.spec, resume=resume, interval=interval, extra={"validation": validation, **(extra or {})}
        )
        validation.attach(trainer)
        checkpoint.attach(trainer)
        return trainer

    return make


def kill_in_epoch(trainer, epoch: int) -> None:
    """Let a run die in the middle of an epoch, after its checkpoint of the one before."""

    def die(engine):
        if engine.state.epoch == epoch and engine.state.iteration % engine.state.epoch_length == 2:
            raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED, die)


def assert_identical(first, second, path=""):
    """Equal to the last bit, through dictionaries and lists."""
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_identical(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_identical(one, other, f"{path}/{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


def read(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="recycling"),
        pytest.param({"method": "recycling", "first_pass": "ema", "accumulation_steps": 2}, id="ema-accumulation"),
        pytest.param({"method": "self_conditioning_next", "dims": 3}, id="3d"),
        pytest.param({"method": "supervised"}, id="supervised"),
        pytest.param({"num_workers": 1}, id="loader-process"),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(make_run, tmp_path, settings):
    settings["epochs"] = EPOCHS
    whole = make_run(tmp_path / "whole", **settings)
    whole.run()

    first = make_run(tmp_path / "parts", **settings)
    kill_in_epoch(first, 3)
    with pytest.raises(Killed):
        first.run()
    assert read(tmp_path / "parts" / CHECKPOINT_NAME)["epoch"] == 2
    second = make_run(tmp_path / "parts", resume=True, **settings)
    second.run()
    for trainer in (whole, first, second):
        # Ends the loader's processes; left to the garbage collector each would be waited for, five seconds long.
        trainer.data_loader._iterator = None

    states = [read(tmp_path / folder / CHECKPOINT_NAME) for folder in ("whole", "parts")]
    assert {"network", "optimizer", "lr_scheduler", "ema", "time_sampler", "validation"} <= set(states[0]["objects"])
    assert states[0]["objects"]["validation"]["early_stop"]["counter"] > 0
    assert states[0]["epoch"] == EPOCHS
    assert_identical(*states)
    weights = sorted(path.name for path in (tmp_path / "whole").glob("model*.pt"))
    assert "model.pt" in weights
    for name in weights:
        assert_identical(read(tmp_path / "whole" / name), read(tmp_path / "parts" / name))


def test_resuming_goes_on_instead_of_starting_anew(make_run, tmp_path):
    make_run(tmp_path).run()
    second = make_run(tmp_path, resume=True, epochs=3)
    epochs = []
    second.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    second.run()
    assert epochs == [2, 3]


def test_a_finished_run_is_left_as_it_is(make_run, tmp_path):
    make_run(tmp_path).run()
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    second = make_run(tmp_path, resume=True)
    epochs = []
    second.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    second.run()
    assert epochs == []
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_a_run_that_stopped_early_stays_stopped(make_run, tmp_path):
    first = make_run(tmp_path, epochs=4, patience=1, min_delta=2.0)
    first.run()
    assert first.state.epoch == 2
    second = make_run(tmp_path, resume=True, epochs=4, patience=1, min_delta=2.0)
    second.run()
    assert second.state.epoch == 2


def test_nothing_to_resume_starts_anew(make_run, tmp_path, caplog):
    trainer = make_run(tmp_path, resume=True)
    with caplog.at_level("INFO", logger="medsegdiff"):
        trainer.run()
    assert trainer.state.epoch == 1
    assert "training starts anew" in caplog.text


def test_overwriting_a_run_is_announced(make_run, tmp_path, caplog):
    make_run(tmp_path).run()
    with caplog.at_level("WARNING", logger="medsegdiff"):
        make_run(tmp_path).run()
    assert "will be overwritten; give --resume true" in caplog.text


def test_checkpoints_come_at_their_interval_and_at_the_end(make_run, tmp_path):
    trainer = make_run(tmp_path, epochs=4, interval=3)
    written = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda _: written.append(read(tmp_path / CHECKPOINT_NAME)["epoch"] if any(tmp_path.glob("check*")) else None),
    )
    trainer.run()
    assert written == [None, None, 3, 4]


def test_only_the_first_process_writes(make_run, tmp_path):
    trainer = make_run(tmp_path)
    trainer.state.rank = 1
    trainer.run()
    assert not (tmp_path / CHECKPOINT_NAME).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "diffusion"}, "a run with method='recycling', this one has 'diffusion'"),
        ({"options": {"num_res_blocks": 0}}, "a run with options="),
        ({"seed": 3}, "a run with seed=0, this one has 3"),
        ({"accumulation_steps": 2}, "a run with accumulation_steps=1, this one has 2"),
        ({"learning_rate": 5e-5}, "a run with learning_rate=0.01, this one has 5e-05"),
        ({"optimizer": torch.optim.Adam}, "a run with optimizer='AdamW', this one has 'Adam'"),
        (
            {"optimizer": functools.partial(torch.optim.AdamW, weight_decay=0.1)},
            "a run with optimizer#weight_decay=0.01, this one has 0.1",
        ),
        (
            {"optimizer": functools.partial(torch.optim.AdamW, betas=(0.5, 0.9))},
            "a run with optimizer#betas=[0.9, 0.999], this one has [0.5, 0.9]",
        ),
        (
            {"loss_function": SegmentationLoss(pixel_weight=1.0)},
            "a run with loss#pixel_weight=20.0, this one has 1.0",
        ),
        ({"loss_function": RegressionLoss()}, "a run with loss='SegmentationLoss', this one has 'RegressionLoss'"),
        ({"ema_decay": 0.99}, "a run with ema_decay=0.9, this one has 0.99"),
        ({"time_sampler_options": {"bins": 4}}, "a run with time_sampler#bins=5, this one has 4"),
        (
            {"time_sampler": "uniform", "time_sampler_options": None},
            "a run with time_sampler='importance', this one has 'uniform'",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_field(make_run, tmp_path, change, message):
    make_run(tmp_path).run()
    other = make_run(tmp_path, resume=True, **change)
    before = [p.detach().clone() for p in other.network.parameters()]
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        other.run()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, other.network.parameters(), strict=True))


def test_another_number_of_batches_is_refused(make_run, tmp_path):
    make_run(tmp_path, samples=6).run()
    with pytest.raises(SpecError, match="3 iterations an epoch, this one has 2; resume with the data and batch"):
        make_run(tmp_path, resume=True, samples=4).run()


@pytest.mark.parametrize("size", [3, 5])
def test_another_batch_size_is_refused_though_the_number_of_batches_is_the_same(make_run, tmp_path, size):
    make_run(tmp_path, batch_size=4).run()
    with pytest.raises(SpecError, match=f"a run with batch_size=4, this one has {size}; resume with the settings"):
        make_run(tmp_path, resume=True, batch_size=size).run()


def without_new_settings(path) -> None:
    """Make a checkpoint one of the time when it held few settings."""
    state = read(path)
    few = ("seed", "max_grad_norm", "first_pass", "accumulation_steps")
    torch.save({**state, "settings": {name: state["settings"][name] for name in few}}, path)


def test_a_checkpoint_with_few_settings_goes_on(make_run, tmp_path):
    make_run(tmp_path).run()
    without_new_settings(tmp_path / CHECKPOINT_NAME)
    second = make_run(tmp_path, resume=True, epochs=2)
    second.run()
    assert second.state.epoch == 2
    assert "learning_rate" in read(tmp_path / CHECKPOINT_NAME)["settings"]
    with pytest.raises(SpecError, match="a run with ema_decay"):
        make_run(tmp_path, resume=True, epochs=3, ema_decay=0.5).run()


@pytest.mark.parametrize("first", ["uniform", "importance"])
def test_a_checkpoint_with_few_settings_of_another_time_sampler_is_refused(make_run, tmp_path, first):
    kinds = {"uniform": None, "importance": {"bins": 5}}
    make_run(tmp_path, time_sampler=first, time_sampler_options=kinds.pop(first)).run()
    without_new_settings(tmp_path / CHECKPOINT_NAME)
    ((second, options),) = kinds.items()
    with pytest.raises(SpecError, match=r"history of importance, .* resume with the time_sampler of the first run"):
        make_run(tmp_path, resume=True, time_sampler=second, time_sampler_options=options).run()


@pytest.mark.parametrize("few", [True, False])
def test_a_split_that_an_earlier_version_called_seeded_is_no_reason_to_refuse(make_run, tmp_path, few, caplog):
    make_run(tmp_path, split="seeded").run()
    if few:
        without_new_settings(tmp_path / CHECKPOINT_NAME)
    second = make_run(tmp_path, resume=True, epochs=2, split="published")
    if few:
        second.run()
        assert "is of a split by dataset.json or seed, this run of published" in caplog.text
    else:
        with pytest.raises(SpecError, match="a run with split='seeded', this one has 'published'"):
            second.run()


def test_what_the_checkpoint_lacks_is_named(make_run, tmp_path):
    class Counter:
        def state_dict(self):
            return {}

    make_run(tmp_path).run()
    with pytest.raises(SpecError, match="holds no 'counter', which this run needs"):
        make_run(tmp_path, resume=True, extra={"counter": Counter()}).run()


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_truncated_checkpoint_is_refused_in_one_line(make_run, tmp_path, keep):
    make_run(tmp_path).run()
    path = tmp_path / CHECKPOINT_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"cannot be read as a checkpoint .*; delete it or start elsewhere") as caught:
        make_run(tmp_path, resume=True).run()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DataError),
        # This is how torch reports a full disk.
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), DataError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full", "full-in-torch", "killed"],
)
def test_a_failed_write_leaves_the_previous_checkpoint_whole(make_run, tmp_path, monkeypatch, failure, raised):
    trainer = make_run(tmp_path / "run")
    trainer.run()
    path = tmp_path / "run" / CHECKPOINT_NAME
    before = path.read_bytes()
    files = sorted(p.name for p in path.parent.iterdir())

    def fail_half_way(_state, file):
        with open(file, "wb") as stream:
            stream.write(before[: len(before) // 2])
        raise failure

    monkeypatch.setattr(torch, "save", fail_half_way)
    checkpoint = RunCheckpoint(tmp_path / "run", trainer.spec)
    with pytest.raises(raised) as caught:
        checkpoint.write(trainer)
    if raised is DataError:
        assert re.search(r"cannot be written \(.*\); free space, or choose another --ckpt_dir", str(caught.value))
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == files


def test_a_folder_that_cannot_be_made_is_one_line(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    trainer = make_run(tmp_path / "run")
    checkpoint = RunCheckpoint(tmp_path / "file" / "run", trainer.spec)
    with pytest.raises(DataError, match="cannot be written"):
        checkpoint.write(trainer)


@pytest.mark.parametrize(("typed", "meant"), [("true", True), ("False", False), (True, True), (False, False)])
def test_resume_is_read_as_typed(make_run, tmp_path, typed, meant):
    spec = make_run(tmp_path).spec
    assert RunCheckpoint(tmp_path, spec, resume=typed).resume is meant


def test_another_word_for_resume_is_refused(make_run, tmp_path):
    spec = make_run(tmp_path).spec
    with pytest.raises(SpecError, match="resume is 'yes'; use true or false"):
        RunCheckpoint(tmp_path, spec, resume="yes")
