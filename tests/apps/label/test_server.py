from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.predictors import Predictors
from medsegdiff.data.reading import read_image
from medsegdiff.inferers.predictor import BundlePredictor
from tests.apps.label.asking import is_one_line


def _array(reply, folder, suffix):
    path = folder / f"reply{suffix}"
    path.write_bytes(reply.content)
    return read_image(path)


def test_the_app_tells_what_it_offers(client):
    info = client.get("/info/").json()
    assert "Research use only" in info["description"]
    assert sorted(info["models"]) == [
        *("hippocampus", "hippocampus_candidate_1", "hippocampus_candidate_2", "hippocampus_candidate_3"),
        "hippocampus_uncertainty",
    ]
    model = info["models"]["hippocampus"]
    assert model["labels"] == {"anterior": 1, "posterior": 2}
    assert model["config"] == {"steps": 2, "draws": 1, "seed": 0, "weights": ["latest", "shipped", "supervised"]}
    assert all("Research use only" in one["description"] for one in info["models"].values())
    assert list(info["trainers"]) == ["hippocampus"]
    assert list(info["strategies"]) == ["hippocampus_most_uncertain", "first", "random"]
    assert list(info["scoring"]) == ["hippocampus_disagreement"]
    assert info["datastore"]["total"] == 3


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_a_result_is_what_the_predictor_gives_on_the_grid_of_the_image(infer, studies, tiny_bundle, tmp_path, suffix):
    reply = infer(result_extension=suffix, result_dtype="uint8", draws=2, seed=5)
    assert reply.status_code == 200
    raw = _array(reply, tmp_path, suffix)
    predictor = BundlePredictor(tiny_bundle, draws=2, seed=5, device="cpu")
    expected = predictor.predict(studies / "case_0.nii.gz")
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw.array, expected.label)
    np.testing.assert_allclose(raw.affine, expected.affine, atol=1e-5)


def test_seed_and_steps_of_a_request_make_a_difference(infer):
    first, again, other = (infer(result_extension=".nii", seed=seed).content for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first != infer(result_extension=".nii", steps=1).content


def test_candidates_are_single_draws_and_the_first_is_the_segmentation(infer):
    whole = infer(result_extension=".nii", draws=1).content
    candidates = [infer(f"hippocampus_candidate_{k}", result_extension=".nii").content for k in (1, 2)]
    assert candidates[0] == whole
    assert candidates[1] == infer(result_extension=".nii", seed=1).content != whole


def test_uncertainty_comes_in_bands_or_per_cent(infer, tmp_path, studies, tiny_bundle):
    bands = _array(infer("hippocampus_uncertainty", result_extension=".nrrd"), tmp_path, ".nrrd")
    percent = _array(infer("hippocampus_uncertainty", result_extension=".nrrd", values="percent"), tmp_path, ".nrrd")
    expected = BundlePredictor(tiny_bundle, draws=4, device="cpu").predict(studies / "case_0.nii.gz").entropy
    assert expected.max() > 0.5
    np.testing.assert_array_equal(percent.array, np.rint(100 * expected))
    np.testing.assert_array_equal(bands.array, np.minimum(np.floor(4 * expected), 3))


def test_what_there_is_to_tell_comes_with_the_result(infer):
    params = infer(output="json", draws=2).json()
    assert params["notice"].startswith("Research use only")
    assert (params["weights"], params["steps"], params["draws"], params["seed"]) == ("shipped", [2], 2, 0)
    assert params["label_names"] == {"anterior": 1, "posterior": 2}
    assert params["training_data"] == "Medical Segmentation Decathlon, Task04 Hippocampus (CC BY-SA 4.0)"
    assert (params["bundle"], params["version"]) == ("hippocampus", "0.1.0")
    assert set(params["latencies"]) == {"read", "preprocess", "sample", "restore", "total"}
    reply = infer(output="all")
    assert b'name="params"' in reply.content
    assert b'name="image"' in reply.content


def test_other_weights_of_the_bundle_can_be_chosen(infer):
    assert infer(output="json", weights="supervised").json()["weights"] == "supervised"
    reply = infer(weights="none")
    assert reply.status_code == 400
    assert "use one of latest, shipped" in reply.json()["detail"]


def test_an_image_can_be_uploaded_and_leaves_nothing_behind(client, studies, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    content = (studies / "case_1.nii.gz").read_bytes()
    form = {"params": json.dumps({"result_extension": ".nii"})}
    for file, status in ((content, 200), (content[:500], 422)):
        upload = {"file": ("somebody.nii.gz", file)}
        reply = client.post("/infer/hippocampus", params={"output": "image"}, data=form, files=upload)
        assert reply.status_code == status
        assert not list((tmp_path / "scratch").iterdir())


def test_a_result_can_be_kept_in_the_store(infer, client, studies):
    infer(save_label=True, label_tag="proposal", result_extension=".nii.gz")
    reply = client.get("/datastore/label", params={"label": "case_0", "tag": "proposal"})
    assert reply.status_code == 200
    assert (studies / "labels" / "proposal" / "case_0.nii.gz").read_bytes() == reply.content


@pytest.mark.parametrize(
    ("path", "query", "params", "status"),
    [
        ("/infer/nothing", {"image": "case_0"}, {}, 404),
        ("/infer/hippocampus", {"image": "case_9"}, {}, 404),
        ("/infer/hippocampus", {}, {}, 400),
        ("/infer/hippocampus", {"image": "../studies/case_0"}, {}, 400),
        ("/infer/hippocampus", {"image": "/etc/passwd"}, {}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"image": "/etc/passwd"}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"model": "other"}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"steps": 0}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"steps": 1001}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"draws": 1000}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"result_extension": "/../x"}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, {"save_label": True, "label_tag": "../../x"}, 400),
        ("/infer/hippocampus", {"image": "case_0"}, ["steps"], 400),
        ("/infer/hippocampus", {"image": "case_0"}, "{", 400),
        ("/infer/hippocampus", {"image": "case_0", "output": "dicom_seg"}, {"label_info": []}, 400),
    ],
)
def test_requests_that_cannot_be_answered_get_a_4xx_and_one_line(client, path, query, params, status):
    text = params if isinstance(params, str) else json.dumps(params)
    reply = client.post(path, params=query, data={"params": text})
    assert reply.status_code == status
    assert is_one_line(reply)


def test_a_defect_is_noted_where_the_client_does_not_see_it(infer, studies, monkeypatch):
    def fail(*_arguments, **_options):
        msg = "Doe^Jane"
        raise RuntimeError(msg)

    monkeypatch.setattr("medsegdiff.apps.label.infer_tasks.write_result", fail)
    reply = infer()
    assert reply.status_code == 500
    assert reply.json()["detail"] == "a defect of the server (RuntimeError), noted in defects.log"
    noted = (studies / ".medsegdiff" / "defects.log").read_text()
    assert "infer_tasks.py" in noted
    assert "Doe" not in noted


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/datastore/image?image=case_9", 404),
        ("get", "/datastore/image?image=../x", 400),
        ("get", "/datastore/label?label=case_0&tag=none", 404),
        ("get", "/datastore/dataset", 422),
        ("get", "/session/nothing", 404),
        ("post", "/activelearning/nothing", 404),
        ("post", "/train/nothing", 404),
        ("post", "/train/hippocampus", 422),
        ("post", "/scoring/nothing", 404),
        ("post", "/batch/infer/nothing", 404),
        ("get", "/model/nothing", 404),
        ("put", "/model/hippocampus", 405),
        ("delete", "/model/hippocampus", 405),
        ("post", "/infer/wsi/hippocampus", 404),
        ("get", "/logs/", 404),
    ],
)
def test_what_does_not_exist_or_is_not_offered_gets_a_4xx(client, method, path, status):
    reply = getattr(client, method)(path)
    assert reply.status_code == status
    assert is_one_line(reply)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"learning_rate": "fast"}, {"validation_share": 1}, {"weights": "x"}]
)
def test_options_of_a_training_are_checked_before_it_starts(client, options):
    reply = client.post("/train/hippocampus", json=options)
    assert reply.status_code == 400
    assert client.get("/train/").status_code == 404  # no task was made


@pytest.mark.parametrize(
    "params", ["null", "[1]", "{", '{"a":' * 5000, "9" * 5000], ids=["null", "list", "torn", "deep", "number"]
)
def test_options_that_are_no_object_are_refused(client, params):
    reply = client.post("/infer/hippocampus", params={"image": "case_0"}, data={"params": params})
    assert reply.status_code == 400
    assert is_one_line(reply)


@pytest.mark.parametrize(
    "params",
    [
        {"result_extension": ".exe"},
        {"label_tag": "../x"},
        {"label_info": "x"},
        {"label_info": [{"color": "red"}]},
        {"measure": "x"},
        {"values": "x"},
    ],
)
def test_options_of_a_result_are_checked_before_it_is_made(client, monkeypatch, params):
    monkeypatch.setattr(Predictors, "segment", lambda *_: pytest.fail("segmented"))
    form = {"params": json.dumps({"save_label": True, **params})}
    reply = client.post("/infer/hippocampus_uncertainty", params={"image": "case_0"}, data=form)
    assert reply.status_code == 400
    assert is_one_line(reply)


def test_cases_are_served_the_most_uncertain_first(client, start, studies):
    assert client.post("/activelearning/first", json={}).json()["id"] == "case_0"
    assert client.post("/activelearning/random", json={}).json()["id"] in {"case_0", "case_1", "case_2"}
    counts = client.post("/scoring/hippocampus_disagreement", params={"run_sync": True}, json={"draws": 2}).json()
    assert counts == {"scored": 3, "kept": 0, "unfit": 0}
    again = client.post("/scoring/hippocampus_disagreement", params={"run_sync": True}, json={"draws": 2}).json()
    assert again == {"scored": 0, "kept": 3, "unfit": 0}
    objects = client.get("/datastore/", params={"output": "all"}).json()["objects"]
    entries = {name: one["image"]["info"]["disagreement"]["hippocampus"] for name, one in objects.items()}
    assert all(0 < entry["score"] <= 1 and entry["entropy"] > 0 for entry in entries.values())
    found = client.post("/activelearning/hippocampus_most_uncertain", json={}).json()
    assert found["id"] == max(entries, key=lambda name: (round(entries[name]["score"], 3), entries[name]["entropy"]))
    assert found["weight"] == entries[found["id"]]["score"]
    assert found["not_scored"] == 0


def test_a_case_that_the_bundle_cannot_segment_is_passed_over(start, studies, tiny_bundle):
    from tests.apps.label.conftest import save

    save(studies / "flat.nii.gz", np.ones((8, 8, 8), np.float32))
    client = start(studies, tiny_bundle)
    reply = client.post("/scoring/hippocampus_disagreement", params={"run_sync": True}, json={"draws": 2})
    assert reply.json() == {"scored": 3, "kept": 0, "unfit": 1}
    info = client.get("/datastore/image/info", params={"image": "flat"}).json()
    assert "with contrast" in info["disagreement"]["hippocampus"]["error"]


def test_pictures_are_segmented_as_pictures(start, tmp_path):
    from medsegdiff.apps.label.bundles import own_bundles
    from tests.apps.label.conftest import blobs

    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.clip(blobs(0, (70, 60)) - 200, 0, 255).astype(np.uint8)).save(folder / "scan.png")
    client = start(folder, own_bundles() / "muscle_us")
    reply = client.post("/infer/muscle_us", params={"image": "scan", "output": "image"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"
    assert _array(reply, tmp_path, ".png").array.shape == (60, 70)
    cut = client.post("/infer/muscle_us", params={"image": "../scan"})
    assert cut.status_code == 400


@pytest.fixture
def modalities(start, tmp_path, repository):
    """A server over one case with all four modalities of brats, and one without flair."""
    from medsegdiff.data.bundle_config import INFERENCE_CONFIG, read_bundle_config
    from medsegdiff.methods import RunSpec, build_segmenter, save_weights
    from tests.apps.label.conftest import blobs, save

    bundle, folder = tmp_path / "brats", tmp_path / "studies"
    shutil.copytree(repository / "bundles" / "brats" / "configs", bundle / "configs")
    names = read_bundle_config(bundle, INFERENCE_CONFIG).get_parsed_content("class_names")
    spec = RunSpec(
        task="brats",
        method="recycling",
        size="small",
        spatial_dims=3,
        in_channels=4,
        class_names=names,
        roi_size=[16, 16, 16],
        options={"channels": [4, 4, 4], "num_res_blocks": 0, "transformer": False},
        steps=1,
    )
    save_weights(build_segmenter(spec).state_dict(), spec, bundle / "models" / "model.pt")
    folder.mkdir()
    for number, name in enumerate(
        ("whole_t1", "whole_t1ce", "whole_t2", "whole_flair", "torn_t1", "torn_t1ce", "torn_t2")
    ):
        save(folder / f"{name}.nii.gz", blobs(number))
    return start(folder, bundle)


def test_modalities_of_a_case_are_put_together_and_a_missing_one_is_named(modalities):
    for image in ("whole_t1", "whole_flair"):
        reply = modalities.post("/infer/brats", params={"image": image, "output": "json"})
        assert reply.status_code == 200, reply.text
    reply = modalities.post("/infer/brats", params={"image": "torn_t2", "output": "json"})
    assert reply.status_code == 422
    assert "torn: got torn_t1.nii.gz, torn_t1ce.nii.gz, torn_t2.nii.gz, without flair" in reply.json()["detail"]


@pytest.mark.real_data
def test_the_shipped_weights_find_the_hippocampus_through_the_server(start, data_root, tmp_path):
    from medsegdiff.apps.label.bundles import own_bundles

    folder = tmp_path / "studies"
    folder.mkdir()
    cases = ("hippocampus_001", "hippocampus_004")
    for case in cases:
        shutil.copy(data_root / "hippocampus" / "imagesTr" / f"{case}.nii.gz", folder)
    client = start(folder, own_bundles() / "hippocampus")
    for case in cases:
        form = {"params": json.dumps({"result_extension": ".nrrd", "result_dtype": "uint8"})}
        reply = client.post("/infer/hippocampus", params={"image": case, "output": "image"}, data=form)
        found = _array(reply, tmp_path, ".nrrd")
        truth = read_image(data_root / "hippocampus" / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_allclose(found.affine, truth.affine, atol=1e-5)
        for k in (1, 2):
            a, b = found.array == k, truth.array == k
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8


def test_a_dicom_store_that_does_not_answer_is_told_in_one_line(start, tiny_bundle, tmp_path):
    client = start("http://127.0.0.1:9/dicom-web", tiny_bundle, work=tmp_path / "work")
    for reply in (
        client.get("/info/"),
        client.post("/infer/hippocampus", params={"image": "1.2.3"}),
        client.post("/activelearning/first", json={}),
    ):
        assert reply.status_code == 422
        assert reply.json()["detail"].startswith("the DICOM store does not answer (ConnectionError)")
    assert client.get("/proxy/dicom/qido/studies").status_code == 502


@pytest.mark.parametrize(
    "path", ["..%2f..%2fsystem", "studies/..%2F..%2F..%2Fsystem", "%252e%252e%252fsystem", "..%5csystem"]
)
def test_the_proxy_reaches_the_dicom_store_only(start, tiny_bundle, tmp_path, path):
    client = start("http://127.0.0.1:9/dicom-web", tiny_bundle, work=tmp_path / "work")
    assert client.get(f"/proxy/dicom/{path}").status_code == 400
    assert client.post(f"/proxy/dicom/stow/{path}", content=b"x").status_code == 400
