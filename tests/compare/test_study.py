"""Study files: what they say, and what is refused."""

from __future__ import annotations

import pytest

from medsegdiff.compare.study import Budget, Evaluation, read_study
from medsegdiff.errors import DataError, MedSegDiffError, SpecError


def test_names_and_mappings_become_variants(write_study):
    study = read_study(
        write_study(
            methods=[
                "supervised",
                {
                    "method": "recycling",
                    "name": "without transformer",
                    "settings": {"learning_rate": 0.01},
                    "evaluation": {"samplers": ["ddim"], "probe_t": 250},
                },
            ],
            settings={"learning_rate": 0.1, "batch_size": 1},
        )
    )

    plain, variant = study.variants
    assert (plain.method, plain.name, plain.label) == ("supervised", "", "supervised")
    assert plain.settings == {"learning_rate": 0.1, "batch_size": 1}
    assert variant.label == variant.name == "without transformer"
    assert variant.settings == {"learning_rate": 0.01, "batch_size": 1}
    assert variant.evaluation == Evaluation(samplers=("ddim",), steps=(2,), draws=(1,), probe_t=(250,))


def test_what_is_left_out_has_defaults(write_study):
    study = read_study(write_study(evaluation=None, pictures=None, settings=None))

    assert study.variants[0].evaluation == Evaluation()
    assert (study.seeds, study.folds, study.pictures, study.dataset_dir) == ((0,), (), 3, None)
    assert study.budget == Budget(steps=6)


def test_every_step_is_measured_or_those_of_the_early_stops():
    assert Evaluation().measured_steps(4) == (1, 2, 3, 4)
    stopping = Evaluation(stop_after=(20, 10, 200))
    assert stopping.measured_steps(100) == (10, 20, 100)
    assert stopping.measured_steps(5) == (1, 2, 3, 4, 5)


def test_folders_are_found_beside_the_study_and_by_name(write_study, tmp_path, phantom_bundle):
    (tmp_path / "cases").mkdir()
    study = read_study(write_study(bundle="hippocampus", dataset_dir="cases"))

    assert study.bundle.name == "hippocampus" and study.bundle != phantom_bundle
    assert study.dataset_dir == tmp_path / "cases"
    assert read_study(write_study(dataset_dir="nowhere"), dataset_dir=tmp_path).dataset_dir == tmp_path


def test_the_studies_of_the_repository_are_read(repository):
    quick = read_study(repository / "studies" / "quick.yaml")
    real = read_study(repository / "studies" / "hippocampus.yaml")

    assert quick.dataset_dir is None and real.dataset_dir is None, "no path is committed"
    methods = {variant.method for variant in real.variants}
    assert methods >= {"supervised", "diffusion", "recycling", "recycling_next", "segdiff", "cdal"}
    assert methods >= {"self_conditioning", "self_conditioning_next"}
    assert real.budget.steps == 720


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["magic"]}, "'magic' does not exist; use one of supervised, diffusion"),
        ({"methods": []}, "give a list of names"),
        ({"methods": ["cdal", "cdal"]}, "cdal more than once"),
        ({"methods": [{"method": "cdal", "nmae": "x"}]}, "no nmae; use keys among method, name"),
        ({"methods": [{"method": "cdal", "name": "a+b"}]}, "holds a '+'"),
        ({"extra": 1}, "there is no extra; use keys among name, bundle"),
        ({"name": None}, "got no name"),
        ({"name": ""}, "name is ''; give a text that a folder can be called"),
        ({"name": ".."}, "name is '..'; give a text"),
        ({"name": "../elsewhere"}, "name is '../elsewhere'; give a text"),
        ({"name": ["a"]}, "give a text that a folder can be called"),
        ({"budget": {"steps": 0}}, "budget is 0 steps"),
        ({"budget": {"minutes": -1}}, "budget is -1 minutes"),
        ({"budget": {"steps": 1.5}}, "budget is 1.5 steps; give a whole number"),
        ({"budget": {"minutes": float("nan")}}, "budget is nan"),
        ({"budget": {"steps": 1, "minutes": 1}}, "give one of steps"),
        ({"budget": {}}, "give one of steps"),
        ({"seeds": []}, "seeds is []"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"folds": [-1]}, "folds is [-1]"),
        ({"size": "huge"}, "size 'huge' does not exist; use one of small, paper"),
        ({"settings": {"epochs": 3}}, "epochs is not set there; say it by budget"),
        ({"settings": {"datalists#num_phantoms": 3}}, "say it by dataset_dir"),
        ({"settings": [1]}, "give ids of the bundle"),
        ({"ensembles": [["supervised"]]}, "lists of two or more of supervised, diffusion"),
        ({"ensembles": [["supervised", "cdal"]]}, "lists of two or more of supervised, diffusion"),
        ({"ensembles": [["supervised", "supervised"]]}, "supervised, diffusion, each once"),
        ({"evaluation": {"samplers": ["euler"]}}, "no sampler 'euler': choose one of ddpm"),
        ({"evaluation": {"part": "tset"}}, "part 'tset' of evaluation does not exist"),
        ({"evaluation": {"steps": [0]}}, "steps of evaluation is [0]"),
        ({"evaluation": {"draws": ["many"]}}, "draws of evaluation"),
        ({"evaluation": {"settings": {"steps": 3}}}, "steps is not set there"),
        ({"evaluation": []}, "evaluation: got []"),
    ],
)
def test_what_makes_no_sense_is_refused(write_study, changes, said):
    path = write_study(**changes)
    with pytest.raises(SpecError) as error:
        read_study(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bundle_that_does_not_exist_is_refused_with_those_that_do(write_study):
    with pytest.raises(DataError, match=r"'hippo' does not exist; .* amos_ct, brats, .*hippocampus"):
        read_study(write_study(bundle="hippo"))


def test_a_key_that_stands_twice_is_refused_and_anchors_are_not(write_study):
    path = write_study()
    path.write_text(path.read_text() + "budget: {steps: 100}\n")
    with pytest.raises(DataError, match="more than once budget in one mapping"):
        read_study(path)

    anchors = "name: a\nbundle: hippocampus\nbudget: {steps: 6}\nsettings: &all {batch_size: 1, learning_rate: 0.1}\n"
    path.write_text(anchors + "methods: [{method: cdal, settings: {<<: *all, batch_size: 2}}]\n")
    assert read_study(path).variants[0].settings == {"batch_size": 2, "learning_rate": 0.1}


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_files_that_are_no_studies_are_refused(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(MedSegDiffError, match=r"study\.yaml"):
        read_study(path)
    with pytest.raises(DataError, match=r"give a study file"):
        read_study(tmp_path / "none.yaml")
