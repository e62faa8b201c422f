"""Pictures for people from the command line."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from medsegdiff.notice import RESEARCH_ONLY
from medsegdiff.view import niivue
from tests.data.dicom.synthetic import noise, places, slices, write


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_case_gets_key_slices_and_a_page(predict, save_image, tmp_path):
    pytest.importorskip("ipyniivue", reason="extra `pages` is not installed")
    save_image(tmp_path / "in" / "a.nii.gz"), save_image(tmp_path / "in" / "b.nii.gz")
    result = predict(tmp_path / "in", "--pictures", "--uncertainty", "--draws", 2, "--seed", 7)
    assert (result.exit_code, result.stderr) == (0, "")
    out = tmp_path / "out"
    kinds = {"label": ".nii.gz", "entropy": "_entropy.nii.gz", "variance": "_variance.nii.gz"}
    kinds |= {"picture": "_picture.png", "page": "_page.html"}
    files = [f"{case}{end}" for case in "ab" for end in kinds.values()]
    assert _names(out) == sorted([*files, "manifest.jsonl", "report.json"])
    cases = json.loads((out / "report.json").read_text())["cases"]
    assert cases[0]["outputs"] == {kind: f"a{end}" for kind, end in kinds.items()}
    with Image.open(out / "a_picture.png") as picture:
        assert picture.text["Description"] == RESEARCH_ONLY
    page = (out / "a_page.html").read_text()
    words = re.sub(r"<[^>]*>", " ", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    for said in (
        RESEARCH_ONLY,
        "hippocampus 0.1.0, recycling (small)",
        "Medical Segmentation Decathlon, Task04 Hippocampus (CC BY-SA 4.0)",
        "ddpm, steps 2, draws 2",
        "anterior",
        f"{cases[0]['volumes']['posterior']['ml']:,.2f} ml",
    ):
        assert said in words

    # A page that is gone is made again.
    (out / "b_page.html").unlink()
    again = predict(tmp_path / "in", "--pictures", "--uncertainty", "--draws", 2, "--seed", 7, "--resume")
    assert again.stderr == "resume: 1 of 2 done already; to do: 1 without all results\n"
    assert (out / "b_page.html").is_file()


def test_they_do_not_say_who_the_patient_is(predict, tmp_path):
    pytest.importorskip("ipyniivue", reason="extra `pages` is not installed")
    images = slices(places(range(8)), volume=noise(8, shape=(10, 9)), spacing=(1, 1), FrameOfReferenceUID="1.2.3")
    series = write(tmp_path / "DOE_JANE" / "t1", images)
    assert predict(series, "--pictures", "--output-format", "dicom-seg").exit_code == 0
    out = tmp_path / "out"
    assert _names(out) == ["manifest.jsonl", "report.json", "t1.dcm", "t1_page.html", "t1_picture.png"]
    words = (b"DOE_JANE", b"Doe^Jane", b"MRN-4711", b"19500102", b"20210304")
    for name in ("t1_page.html", "t1_picture.png"):
        assert not any(word in (out / name).read_bytes() for word in words)


def test_without_the_viewer_nothing_is_begun(predict, save_image, tmp_path, monkeypatch):
    niivue.niivue_module.cache_clear()
    monkeypatch.setattr(niivue, "PACKAGE", "no_such_package")
    result = predict(save_image(tmp_path / "a.nii.gz"), "--pictures")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    [line] = result.stderr.splitlines()
    assert line.startswith("error: pages need ipyniivue, which is not installed; run pip install 'medsegdiff[pages]'")
