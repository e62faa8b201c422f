"""Plans: runs and their folders, and all that is refused before anything is trained."""

from __future__ import annotations

import json
import shutil

import pytest

from medsegdiff.compare.plan import make_plan
from medsegdiff.compare.runs import Probe, Sampling
from medsegdiff.compare.study import read_study
from medsegdiff.data.phantoms import PhantomSpec, phantom_folder
from medsegdiff.errors import DataError, SpecError


@pytest.fixture(scope="session")
def cases():
    spec = PhantomSpec(
        name="hippocampus", shape=(16, 16, 16), spacing=(1.0, 1.0, 1.0), num_classes=3, class_names=("a", "p")
    )
    return phantom_folder(spec, cases=8, seed=3)


def names(cases):
    return sorted(path.name.removesuffix(".nii.gz") for path in (cases / "imagesTr").glob("*.nii.gz"))


class TestRuns:
    def test_every_method_and_seed_has_one(self, plan_study):
        plan = plan_study(seeds=[0, 1], methods=["supervised", "recycling"], ensembles=[["supervised", "recycling"]])

        assert [(run.method, run.seed) for run in plan.runs] == [
            ("supervised", 0),
            ("recycling", 0),
            ("supervised", 1),
            ("recycling", 1),
            ("supervised+recycling", 0),
            ("supervised+recycling", 1),
        ]
        assert len({run.hash for run in plan.runs}) == 6
        ensemble = plan.runs[-1]
        assert [member.seed for member in ensemble.members] == [1, 1]
        assert ensemble.samplings == plan.runs[1].samplings

    def test_all_seeds_see_the_same_cases(self, plan_study):
        plan = plan_study(seeds=[0, 5])
        arguments = [run.training.arguments for run in plan.runs]

        assert {one["datalists#seed"] for one in arguments} == {0}
        assert [one["seed"] for one in arguments] == [0, 0, 5, 5]
        assert plan.evaluate_overrides(plan.runs[-1])["datalist#seed"] == 0

    def test_the_budget_becomes_whole_epochs(self, plan_study):
        training = plan_study().runs[0].training

        assert (training.cases, training.batches, training.steps_per_epoch) == (7, 3, 3)
        assert [training.epochs(steps) for steps in (1, 3, 5, 6, 8.9)] == [1, 1, 1, 2, 2]

    def test_the_batches_of_an_optimiser_step_count_once(self, plan_study):
        settings = {"batch_size": 1, "accumulation_steps": 2}
        training = plan_study(methods=[{"method": "diffusion", "settings": settings}]).runs[0].training

        assert (training.batches, training.steps_per_epoch) == (7, 4)

    def test_samplings_are_all_combinations_and_supervised_has_one(self, plan_study):
        evaluation = {"samplers": ["ddpm", "ddim"], "steps": [2, 5], "seeds": [4, 5], "probe_t": [0, 250]}
        supervised, diffusion = plan_study(evaluation=evaluation).runs

        assert supervised.samplings == (Sampling("", 1, 1, 4),) and supervised.probes == ()
        assert len(diffusion.samplings) == 8
        assert diffusion.samplings[0] == Sampling("ddpm", 2, 1, 4)
        assert set(diffusion.probes) == {Probe(t, seed) for t in (0, 250) for seed in (4, 5)}

    def test_what_is_not_said_is_the_methods_own(self, plan_study):
        settings = {"sampler": "ddim", "steps": 4, "draws": 3}
        plan = plan_study(evaluation={}, methods=["diffusion", {"method": "recycling", "settings": settings}])

        assert plan.runs[0].samplings == (Sampling("ddpm", 5, 1, 0),)
        assert plan.runs[1].samplings == (Sampling("ddim", 4, 3, 0),)


class TestHash:
    @pytest.mark.parametrize(
        "changes",
        [
            {"settings": {"network_options": {"channels": [4, 8], "num_res_blocks": 0, "transformer": False}}},
            {"settings": {"learning_rate": 0.1}},
            {"budget": {"steps": 9}},
            {"budget": {"minutes": 6}},
            {"seeds": [1]},
            {"methods": ["recycling"]},
        ],
    )
    def test_what_decides_the_result_changes_it(self, plan_study, changes):
        before, after = plan_study(methods=["diffusion"]), plan_study(**{"methods": ["diffusion"], **changes})
        assert before.runs[0].hash != after.runs[0].hash

    @pytest.mark.parametrize(
        "changes", [{"evaluation": {"steps": [3]}}, {"name": "other"}, {"methods": ["supervised", "diffusion"]}]
    )
    def test_the_rest_does_not(self, plan_study, changes):
        before, after = plan_study(methods=["diffusion"]), plan_study(**{"methods": ["diffusion"], **changes})
        assert before.runs[-1].hash == after.runs[-1].hash

    def test_neither_do_folder_and_device(self, write_study, tmp_path):
        study = read_study(write_study())
        one, other = make_plan(study, tmp_path / "a", device="cpu"), make_plan(study, tmp_path / "b")
        assert [run.hash for run in one.runs] == [run.hash for run in other.runs]

    def test_the_weights_that_training_starts_from_count_by_their_content(self, plan_study, tmp_path):
        weights = tmp_path / "start.pt"
        hashes = []
        for content in ("one", "two"):
            weights.write_text(content)
            plan = plan_study(methods=[{"method": "diffusion", "settings": {"init_weights": str(weights)}}])
            hashes.append(plan.runs[0].hash)
        assert hashes[0] != hashes[1]

    def test_other_cases_make_another_run(self, write_study, tmp_path, cases):
        copy = tmp_path / "cases"
        shutil.copytree(cases, copy)
        members = names(cases)
        split = {"training": members[:4], "validation": members[4:5], "test": members[5:]}
        (tmp_path / "split.json").write_text(json.dumps(split))
        study = read_study(write_study(split_file="split.json"), dataset_dir=copy)
        before = make_plan(study, tmp_path / "out")
        assert before.runs[0].hash == make_plan(study, tmp_path / "out").runs[0].hash

        shutil.copy(cases / "labelsTr" / f"{members[6]}.nii.gz", copy / "labelsTr" / f"{members[6]}.nii.gz")
        assert before.runs[0].hash == make_plan(study, tmp_path / "out").runs[0].hash
        with (copy / "labelsTr" / f"{members[0]}.nii.gz").open("ab") as file:
            file.write(b"more")
        assert before.runs[0].hash != make_plan(study, tmp_path / "out").runs[0].hash


class TestFolders:
    def test_a_folder_of_other_settings_is_refused(self, plan_study):
        run = plan_study().runs[0]
        run.prepare_folder()
        plan_study()
        content = json.loads((run.folder / "settings.json").read_text())
        content["seed"] = 7
        (run.folder / "settings.json").write_text(json.dumps(content))

        with pytest.raises(SpecError, match=r"holds a run with seed=7, the study says 0; remove the folder"):
            plan_study()

    def test_a_folder_without_settings_is_refused(self, plan_study):
        run = plan_study().runs[0]
        run.folder.mkdir(parents=True)
        plan_study()
        (run.folder / "model.pt").touch()

        with pytest.raises(SpecError, match=r"has no settings\.json"):
            plan_study()


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"settings": {"learnig_rate": 1}}, "no id 'learnig_rate' to set to 1; leave it out, or use one of"),
            ({"evaluation": {"settings": {"tolerance": 1}}}, "no id 'tolerance'"),
            ({"settings": {"network_options": {"chanels": [4]}}}, "its settings make no network"),
            ({"evaluation": {"steps": [2000]}}, "diffusion: "),
            ({"evaluation": {"probe_t": 1001}}, "probe_t is 1001; its schedule has the time steps 0 to 1000"),
            ({"methods": ["cdal"], "settings": {}, "evaluation": {"steps": [5]}}, "cdal: "),
            (
                {"methods": ["cdal", {"method": "cdal", "name": "b"}], "settings": {}, "evaluation": {}},
                "the same settings",
            ),
            ({"settings": {"batch_size": "many"}}, "its settings make no data loader"),
            ({"folds": [0]}, "folds were asked for without dataset_dir"),
        ],
    )
    def test_settings_that_do_not_fit(self, plan_study, changes, said):
        with pytest.raises(SpecError) as error:
            plan_study(**changes)
        assert said in str(error.value)
        assert "\n" not in str(error.value)

    def test_an_ensemble_without_a_sampling_in_common(self, plan_study):
        methods = ["recycling", {"method": "diffusion", "evaluation": {"steps": [3]}}]
        with pytest.raises(SpecError, match=r"ensemble recycling\+diffusion has members that are measured differently"):
            plan_study(methods=methods, ensembles=[["recycling", "diffusion"]])

    def test_a_case_in_two_parts(self, plan_study, tmp_path, cases):
        first, second, third, *_ = names(cases)
        split = {"training": [first, second], "validation": [third], "test": [first]}
        (tmp_path / "split.json").write_text(json.dumps(split))
        with pytest.raises(DataError, match=f"{first}.* more than once"):
            plan_study(dataset_dir=str(cases), split_file="split.json")

    def test_a_file_in_two_parts_under_two_names(self, plan_study, tmp_path, cases):
        copy = tmp_path / "cases"
        shutil.copytree(cases, copy)
        first, second, third, *_ = names(cases)
        shutil.copy(copy / "labelsTr" / f"{first}.nii.gz", copy / "labelsTr" / "again.nii.gz")
        (copy / "imagesTr" / "again.nii.gz").symlink_to(copy / "imagesTr" / f"{first}.nii.gz")
        (copy / "dataset.json").unlink()
        split = {"training": [first, second], "validation": [third], "test": ["again"]}
        (tmp_path / "split.json").write_text(json.dumps(split))
        with pytest.raises(DataError, match=f"{first} and again, which share a file, in both training and test"):
            plan_study(dataset_dir=str(copy), split_file="split.json")

    def test_folds_that_overlap(self, plan_study, tmp_path, cases):
        first, second, third, *_ = names(cases)
        (tmp_path / "folds.json").write_text(json.dumps({"folds": [[first, second], [second, third]]}))
        with pytest.raises(DataError, match=f"{second}.* more than once"):
            plan_study(dataset_dir=str(cases), split_file="folds.json", folds=[0, 1])

    def test_a_part_without_cases(self, plan_study, tmp_path, cases):
        first, second, *_ = names(cases)
        split = {"training": [first], "validation": [second], "test": []}
        (tmp_path / "split.json").write_text(json.dumps(split))
        with pytest.raises(DataError, match=r"the part 'test' has no case"):
            plan_study(dataset_dir=str(cases), split_file="split.json")


def test_each_fold_has_its_own_cases(plan_study, tmp_path, cases):
    members = names(cases)
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [members[:4], members[4:]]}))
    plan = plan_study(dataset_dir=str(cases), split_file="folds.json", folds=[0, 1], methods=["supervised"])

    assert [run.fold for run in plan.runs] == [0, 1]
    assert [case["case"] for case in plan.cases(plan.runs[1])] == members[4:]
    assert plan.runs[0].hash != plan.runs[1].hash
    assert plan.runs[1].training.arguments["fold"] == plan.evaluate_overrides(plan.runs[1])["fold"] == 1


class TestEvaluationFile:
    def test_what_changes_a_result_changes_its_name(self, plan_study, pretend_trained):
        def name(**evaluation):
            plan = plan_study(evaluation={"steps": [3], **evaluation})
            run = plan.runs[1]
            return plan.evaluation_file(run, run.samplings[0]).name

        first = name()
        assert name() == first
        assert name(part="validation") != first
        assert name(settings={"overlap": 0.25}) != first
        assert name(stop_after=[1]) != first
        assert name(probe_t=250) == first, "an added probe is no reason to sample again"
        pretend_trained(*plan_study().runs)
        assert name() != first, "other weights"

    def test_what_stands_is_not_missing(self, plan_study):
        plan = plan_study(evaluation={"steps": [2], "probe_t": 250})
        run = plan.runs[1]
        assert plan.missing(run) == [*run.samplings, *run.probes]
        path = plan.evaluation_file(run, run.samplings[0])
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert plan.missing(run) == list(run.probes)
