"""The trainer of cDAL: what each step changes, what it refuses, and how a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.utils import AdversarialIterationEvents as Happened
from torch import nn

from medsegdiff.data.keyed_dataset import KeyedCacheDataset, keyed_loader
from medsegdiff.engines.adversarial_trainer import AdversarialDiffusionTrainer
from medsegdiff.engines.distributed import distribute, start_processes
from medsegdiff.engines.ema import make_ema
from medsegdiff.engines.learning_rate import warmup_cosine
from medsegdiff.errors import MedSegDiffError, SpecError
from medsegdiff.handlers.run_checkpoint import CHECKPOINT_NAME, RunCheckpoint
from medsegdiff.losses.segmentation import RegressionLoss
from medsegdiff.methods import RunSpec, build_segmenter
from medsegdiff.methods.cdal import build_discriminator

both_dims = pytest.mark.parametrize("dims", [2, 3])
SCALARS = ("loss", "reconstruction_loss", "generator_loss", "discriminator_loss", "r1_penalty", "attention")


def weights_of(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


@pytest.fixture
def make_trainer(training_items) -> Callable[..., AdversarialDiffusionTrainer]:
    """A trainer of tiny networks on the cases in memory."""

    def make(
        *,
        dims: int = 2,
        samples: int = 4,
        max_epochs: int = 1,
        amp: str = "off",
        latent: bool = True,
        dropout: float = 0.0,
        ema: bool = False,
        learning_rate: float = 1e-3,
        schedule_rates: bool = False,
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
        **options: Any,
    ) -> AdversarialDiffusionTrainer:
        torch.manual_seed(1)
        spec = RunSpec(
            task="test",
            method="cdal",
            size="small",
            spatial_dims=dims,
            in_channels=1,
            class_names=["background", "first", "second"],
            roi_size=[8] * dims,
            options={
                "channels": [8, 8],
                "attention_levels": [1],
                "encoder_blocks": 1,
                "latent": latent,
                "latent_dim": 4,
                "style_dim": 8,
                "mapping_layers": 1,
                "dropout": dropout,
            },
            steps=4,
        )
        segmenter = build_segmenter(spec, amp=amp)
        discriminator = build_discriminator(spec, channels=(4, 8, 8), time_dim=8)
        networks = [wrap(segmenter), wrap(discriminator)]
        optimizers = [torch.optim.Adam(n.parameters(), learning_rate, betas=(0.5, 0.9)) for n in networks]
        rates = [warmup_cosine(o, total_steps=20) if schedule_rates else None for o in optimizers]
        trainer = AdversarialDiffusionTrainer(
            "cpu",
            max_epochs,
            keyed_loader(KeyedCacheDataset(training_items(samples, dims=dims), []), batch_size=2),
            networks[0],
            optimizers[0],
            networks[1],
            optimizers[1],
            ema=make_ema(segmenter, decay=0.9) if ema else None,
            lr_scheduler=rates[0],
            discriminator_lr_scheduler=rates[1],
            **{"attention_layer": "1/2", **options},
        )
        trainer.spec = spec
        return trainer

    return make


def scalars_of(trainer: AdversarialDiffusionTrainer) -> dict[str, list[float]]:
    """Run a trainer and give what it logs of every iteration."""
    seen: dict[str, list[float]] = {name: [] for name in SCALARS}

    def remember(engine: AdversarialDiffusionTrainer) -> None:
        for name, values in seen.items():
            values.append(float(engine.state.output[0][name]))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, remember)
    trainer.run()
    return seen


class TestTraining:
    @both_dims
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, id="paper"),
            pytest.param({"real_pair": "algorithm_1", "fake_pair": "algorithm_1"}, id="algorithm-1"),
            pytest.param({"latent": False, "attention": False}, id="ablated"),
            pytest.param({"adversarial_weight": 0.1, "attention_normalise": "min_max"}, id="adversarial"),
        ],
    )
    def test_both_networks_train(self, make_trainer, dims, options):
        trainer = make_trainer(dims=dims, **options)
        before = [weights_of(network) for network in (trainer.network, trainer.discriminator)]
        seen = scalars_of(trainer)
        assert {len(values) for values in seen.values()} == {2}
        assert all(torch.isfinite(torch.tensor(values)).all() for values in seen.values())
        for network, weights in zip((trainer.network, trainer.discriminator), before, strict=True):
            assert not torch.equal(weights, weights_of(network))
            assert [name for name, p in network.named_parameters() if p.grad is None] == []

    def test_the_loss_falls(self, make_trainer):
        trainer = make_trainer(max_epochs=12, learning_rate=2e-2, attention_normalise="unit_mean")
        losses = scalars_of(trainer)["loss"]
        assert losses[0] == pytest.approx(1, abs=1e-3)  # untrained, it predicts 0 for -1 and 1
        assert sum(losses[-4:]) / 4 < 0.6

    def test_handlers_see_the_output_sample_by_sample(self, make_trainer):
        trainer, outputs = make_trainer(), []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
        trainer.run()
        assert [len(output) for output in outputs] == [2, 2]
        images = {"image": 1, "label": 1, "pred": 3, "reals": 3, "fakes": 3}
        for name, channels in images.items():
            assert outputs[0][0][name].shape == (channels, 8, 8), name
        assert {"real_logits", "fake_logits", *SCALARS} <= set(outputs[0][0])

    def test_a_run_does_not_depend_on_the_global_random_state(self, make_trainer):
        first, second = make_trainer(dropout=0.3, max_epochs=2), make_trainer(dropout=0.3, max_epochs=2)
        first.run()
        torch.manual_seed(12345)
        second.run()
        assert torch.equal(weights_of(first.network), weights_of(second.network))
        assert torch.equal(weights_of(first.discriminator), weights_of(second.discriminator))

    def test_another_seed_is_another_run(self, make_trainer):
        first, second = make_trainer(), make_trainer(seed=1)
        first.run()
        second.run()
        assert not torch.equal(weights_of(first.network), weights_of(second.network))

    @both_dims
    def test_bf16_computes_in_bf16_and_penalises_in_float32(self, make_trainer, dims):
        trainer, seen = make_trainer(dims=dims, amp="bf16", r1_interval=2), {"G": [], "D": []}
        for name, layer in (("G", trainer.network.denoiser.head[-1]), ("D", trainer.discriminator.last)):
            layer.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out.dtype))
        scalars = scalars_of(trainer)
        assert set(seen["G"]) == {torch.bfloat16}
        # Real and fake masks of two iterations; the first is penalised.
        assert seen["D"] == [torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16]
        assert {p.dtype for p in trainer.discriminator.parameters()} == {torch.float32}
        assert all(torch.isfinite(torch.tensor(values)).all() for values in scalars.values())
        assert not {"grad_scaler", "discriminator_grad_scaler"} & set(trainer.stateful_objects())


class TestOneStepAtATime:
    @pytest.mark.parametrize("weight", [0.0, 0.5])
    def test_each_step_changes_its_own_network_alone(self, make_trainer, weight):
        trainer, history = make_trainer(samples=2, adversarial_weight=weight), []

        def remember() -> None:
            gradients = [p.grad is not None for p in trainer.network.parameters()]
            judge = torch.cat([p.grad.flatten().clone() for p in trainer.discriminator.parameters()])
            history.append((weights_of(trainer.network), weights_of(trainer.discriminator), gradients, judge))

        before = weights_of(trainer.network), weights_of(trainer.discriminator)
        trainer.add_event_handler(Happened.DISCRIMINATOR_MODEL_COMPLETED, remember)
        trainer.add_event_handler(Happened.GENERATOR_MODEL_COMPLETED, remember)
        trainer.run()
        (generator, judge, touched, slopes), (generator_after, judge_after, _, slopes_after) = history
        assert torch.equal(generator, before[0]) and not any(touched)
        assert not torch.equal(judge, before[1])
        assert not torch.equal(generator_after, generator)
        assert torch.equal(judge_after, judge) and torch.equal(slopes_after, slopes)
        assert all(p.requires_grad for p in trainer.discriminator.parameters())

    def test_the_adversarial_term_moves_the_generator(self, make_trainer):
        trained = []
        for weight in (0.0, 10.0):
            trainer = make_trainer(samples=2, adversarial_weight=weight)
            scalars = scalars_of(trainer)
            expected = scalars["reconstruction_loss"][0] + weight * scalars["generator_loss"][0]
            assert scalars["loss"][0] == pytest.approx(expected)
            assert (scalars["generator_loss"][0] > 0) == (weight > 0)
            trained.append([p.grad.clone() for p in trainer.network.denoiser.head[-1].parameters()])
        assert not torch.allclose(trained[0][0], trained[1][0])

    def test_the_penalty_comes_every_so_many_iterations(self, make_trainer):
        scalars = scalars_of(make_trainer(samples=8, max_epochs=2, r1_interval=3))
        assert [value > 0 for value in scalars["r1_penalty"]] == [n % 3 == 0 for n in range(8)]
        none = scalars_of(make_trainer(r1_gamma=0.0, r1_interval=1))
        assert none["r1_penalty"] == [0, 0]

    def test_the_penalty_weighs_as_much_as_gamma_says(self, make_trainer):
        one, two = (scalars_of(make_trainer(samples=2, r1_gamma=gamma))["r1_penalty"][0] for gamma in (1.0, 2.0))
        assert two == pytest.approx(2 * one)

    def test_the_average_and_the_learning_rates_follow_every_step(self, make_trainer):
        trainer = make_trainer(samples=6, ema=True, schedule_rates=True)
        trainer.run()
        assert int(trainer.ema.n_averaged) == 3
        assert trainer.lr_scheduler.last_epoch == trainer.discriminator_lr_scheduler.last_epoch == 3
        assert not torch.equal(weights_of(trainer.ema.module), weights_of(trainer.network))

    def test_gradients_of_each_network_are_clipped_together(self, make_trainer):
        for most, close in ((1e-4, True), (None, False)):
            trainer = make_trainer(samples=2, max_grad_norm=most)
            trainer.run()
            for network in (trainer.network, trainer.discriminator):
                norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()
                assert (norm == pytest.approx(1e-4, rel=1e-2)) == close


class Killed(Exception):
    """What ends a run from outside."""


def assert_identical(first: Any, second: Any, path: str = "") -> None:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_identical(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_identical(one, other, f"{path}/{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


class TestResuming:
    @both_dims
    def test_an_interrupted_run_ends_as_an_uninterrupted_one(self, make_trainer, tmp_path, dims):
        settings = {"samples": 4, "dims": dims, "max_epochs": 3, "dropout": 0.2, "ema": True, "schedule_rates": True}

        def make(folder: str, *, resume: bool = False) -> AdversarialDiffusionTrainer:
            trainer = make_trainer(**settings, r1_interval=2)
            RunCheckpoint(tmp_path / folder, trainer.spec, resume=resume).attach(trainer)
            return trainer

        make("whole").run()
        first = make("parts")

        @first.on(Events.ITERATION_COMPLETED)
        def die() -> None:
            if first.state.iteration == 3:  # in the middle of the second epoch
                raise Killed

        with pytest.raises(Killed):
            first.run()
        second = make("parts", resume=True)
        second.run()
        assert second.state.iteration == 6
        states = [torch.load(tmp_path / name / CHECKPOINT_NAME, weights_only=True) for name in ("whole", "parts")]
        names = {"network", "optimizer", "lr_scheduler", "ema"}
        names |= {"discriminator", "discriminator_optimizer", "discriminator_lr_scheduler"}
        assert set(states[0]["objects"]) == names
        assert {"seed", "attention", "attention_layer", "real_pair"} <= set(states[0]["settings"])
        assert_identical(*states)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"adversarial_weight": 0.5}, "a run with adversarial_weight=0.0, this one has 0.5"),
            (
                {"reconstruction_loss": RegressionLoss(reduction="sum")},
                "a run with loss#reduction='mean', this one has",
            ),
        ],
    )
    def test_other_settings_are_refused(self, make_trainer, tmp_path, changes, message):
        for resume, more in ((False, {}), (True, changes)):
            trainer = make_trainer(samples=2, **more)
            RunCheckpoint(tmp_path, trainer.spec, resume=resume).attach(trainer)
            if not resume:
                trainer.run()
        with pytest.raises(SpecError, match=message):
            trainer.run()

    def test_another_rate_of_the_discriminator_is_refused(self, make_trainer, tmp_path):
        first, second = (make_trainer(samples=2) for _ in range(2))
        rate = first.discriminator_optimizer.param_groups[0]["lr"]
        second.discriminator_optimizer.param_groups[0]["lr"] = 10 * rate
        for trainer, resume in ((first, False), (second, True)):
            RunCheckpoint(tmp_path, trainer.spec, resume=resume).attach(trainer)
        first.run()
        with pytest.raises(SpecError, match=f"a run with discriminator_learning_rate={rate}, this one has {10 * rate}"):
            second.run()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"real_pair": "posterior"}, "real_pair 'posterior' does not exist; use one of markov, algorithm_1"),
            ({"fake_pair": "markov"}, "fake_pair 'markov' does not exist; use one of posterior, algorithm_1"),
            ({"attention_normalise": "softmax"}, "attention_normalise 'softmax' does not exist; use one of none"),
            ({"r1_interval": 0}, "got r1_interval=0, .*allowed are r1_interval >= 1 and weights >= 0"),
            ({"r1_gamma": -1.0}, "r1_gamma=-1.0"),
            ({"adversarial_weight": -0.1}, "adversarial_weight=-0.1"),
            ({"amp": "fp16"}, "fp16.*CPU.*use amp 'bf16' or 'auto'"),
        ],
    )
    def test_settings_that_do_not_fit_are_refused(self, make_trainer, options, message):
        with pytest.raises(SpecError, match=message):
            make_trainer(**options)

    def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(self, make_trainer):
        with pytest.raises(SpecError, match=r"no layer '1/8'; use one of 1/1 \(8 x 8\), 1/2 \(4 x 4\), 1/4 \(2 x 2\)"):
            make_trainer(attention_layer="1/8").run()

    def test_networks_that_do_not_belong_together_are_refused(self, make_trainer):
        trainer = make_trainer()
        given = (trainer.optimizer, trainer.discriminator, trainer.discriminator_optimizer)
        supervised = build_segmenter(trainer.spec.replace(method="supervised", options={}))
        with pytest.raises(SpecError, match="needs a network with a noise schedule, got a supervised one; use method"):
            AdversarialDiffusionTrainer("cpu", 1, [], supervised, *given)
        binary = build_segmenter(trainer.spec.replace(class_names=["background", "body"]))
        with pytest.raises(SpecError, match="judges masks of 3 channels, the network makes 1; build both of one spec"):
            AdversarialDiffusionTrainer("cpu", 1, [], binary, *given)


class TestFailures:
    def run_into(self, trainer: AdversarialDiffusionTrainer, message: str) -> None:
        before = weights_of(trainer.network)
        with pytest.raises(MedSegDiffError, match=rf"the {message} became nan in epoch 1, iteration 1; .*amp to off"):
            trainer.run()
        assert torch.equal(before, weights_of(trainer.network))

    def test_a_broken_discriminator_stops_training_before_any_weights_change(self, make_trainer):
        trainer = make_trainer()
        trainer.discriminator.head.register_forward_hook(lambda _m, _i, out: out * float("nan"))
        before = weights_of(trainer.discriminator)
        self.run_into(trainer, "loss of the discriminator")
        assert torch.equal(before, weights_of(trainer.discriminator))

    def test_a_broken_penalty_stops_training_before_any_weights_change(self, make_trainer, monkeypatch):
        broken = "medsegdiff.engines.adversarial_trainer.r1_penalty"
        monkeypatch.setattr(broken, lambda logits, real, gamma: logits * float("nan"))
        trainer = make_trainer()
        before = weights_of(trainer.discriminator)
        self.run_into(trainer, "R1 penalty")
        assert torch.equal(before, weights_of(trainer.discriminator))

    def test_a_broken_reconstruction_stops_training_before_the_generator_changes(self, make_trainer):
        def loss(guess, truth):
            return guess.flatten(1).mean(dim=1) * float("nan")

        self.run_into(make_trainer(reconstruction_loss=loss), "reconstruction loss of the generator")

    def test_a_broken_adversarial_term_stops_training_before_the_generator_changes(self, make_trainer, monkeypatch):
        broken = "medsegdiff.engines.adversarial_trainer.generator_loss"
        monkeypatch.setattr(broken, lambda logits: logits * float("nan"))
        self.run_into(make_trainer(adversarial_weight=1.0), "adversarial loss of the generator")

    @pytest.mark.parametrize("most", [None, 1.0])
    def test_a_broken_gradient_stops_training_before_the_generator_changes(self, make_trainer, most):
        def loss(guess, truth):
            return (0 * guess).sqrt().flatten(1).mean(dim=1)  # an infinite slope at 0

        trainer = make_trainer(reconstruction_loss=loss, max_grad_norm=most)
        self.run_into(trainer, "norm of the gradient of the generator")


def test_networks_of_a_process_group_train_as_alone(make_trainer, torchrun):
    alone = make_trainer(r1_interval=1, adversarial_weight=0.1)
    alone.run()
    start_processes("cpu")
    wrapped = make_trainer(r1_interval=1, adversarial_weight=0.1, wrap=lambda network: distribute(network, "cpu"))
    wrapped.run()
    torch.testing.assert_close(weights_of(wrapped.network.module), weights_of(alone.network))
    torch.testing.assert_close(weights_of(wrapped.discriminator.module), weights_of(alone.discriminator))
    assert all(not name.startswith("module.") for name in wrapped.stateful_objects()["network"].state_dict())
