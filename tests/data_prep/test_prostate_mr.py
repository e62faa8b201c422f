from __future__ import annotations

import json

import pytest

from data_prep import prostate_mr
from data_prep.prostate_mr import main, paper_parts, read_institutions
from data_prep.settings import VolumeSettings
from medsegdiff.data.splits import PARTS
from medsegdiff.errors import DataError

NAMES = [f"{number:03}000" for number in range(1, 19)]
INSTITUTIONS = {name: str(index % 2 + 1) for index, name in enumerate(NAMES)}  # nine cases each


@pytest.fixture
def source(tmp_path, save_volume, label_volume):
    """The layout that the publishers describe."""
    root = tmp_path / "source"
    for seed, name in enumerate(NAMES):
        save_volume(root / "data" / f"{name}_img.nii", seed=seed)
        save_volume(root / "data" / f"{name}_mask.nii", label_volume(*range(9)))
    (root / "institution.txt").write_text("".join(f"{name} {where}\n" for name, where in INSTITUTIONS.items()))
    return root


def convert(source, output, **options):
    settings = VolumeSettings(workers=1, link=options.pop("link", False))
    return prostate_mr.convert(source, output, settings=settings, **options)


def test_pairs_become_a_checked_data_set_that_keeps_the_institutions(source, tmp_path, volumes_back):
    output = tmp_path / "out"
    conversion = convert(source, output)
    assert conversion.kept == tuple(NAMES)
    assert conversion.misfits == ()
    assert len(volumes_back(output, channels=1, num_classes=9)) == len(NAMES)
    content = json.loads((output / "dataset.json").read_text())
    assert list(content["labels"].values()) == [
        "background",
        "bladder",
        "bone",
        "obturator internus",
        "transition zone",
        "central gland",
        "rectum",
        "seminal vesicle",
        "neurovascular bundle",
    ]
    assert content["training"][0] == {
        "image": "./imagesTr/001000.nii",
        "label": "./labelsTr/001000.nii",
        "institution": "1",
    }
    assert content["splits"]["default"] == "splits/prostate_mr_4_4_10.json"


def test_each_institution_is_divided_on_its_own(source, tmp_path):
    conversion = convert(source, tmp_path / "out")
    # Nine cases: two for validation, then up to int(.75 * 9) - 2 = 4 for training.
    for where in ("1", "2"):
        names = [name for name in NAMES if INSTITUTIONS[name] == where]
        found = {part: [name for name in conversion.split[part] if name in names] for part in PARTS}
        assert found == {"validation": names[:2], "training": names[2:4], "test": names[4:]}


def test_the_published_numbers_come_out():
    # 589 cases of seven institutions: how they are shared out is free but for a sum, which the paper's numbers fix.
    sizes = [9, 21, 41, 62, 100, 156, 200]
    assert (sum(sizes), sum(int(0.75 * size) for size in sizes)) == (589, 439)
    institutions = {f"{place}_{index:03}": str(place) for place, size in enumerate(sizes) for index in range(size)}
    parts = list(paper_parts(institutions).values())
    assert tuple(parts.count(part) for part in PARTS) == (411, 14, 164)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_of_few_cases_the_first_two_are_for_validation_and_none_is_lost(size):
    names = [f"{index}" for index in range(size)]
    parts = paper_parts(dict.fromkeys(names, "1"))
    assert parts == {name: "validation" if index < 2 else "test" for index, name in enumerate(names)}


@pytest.mark.parametrize(
    "line",
    [
        "{} {}",
        "{}\t{}",
        "{},{}",
        "{}_img.nii, {}",
        "data/{}_img.nii.gz;{}",
        "{}_mask.nii: {}",
        " {} = {} ",
    ],
)
def test_lines_of_many_forms_are_read(tmp_path, line):
    path = tmp_path / "index.txt"
    where = {"001000": "1", "002000": "St Mary", "003000": "2"}
    text = "\n".join(line.format(name, place) for name, place in where.items())
    path.write_text(f"\ufeffcase institution\n\n{text}\n", encoding="utf-8")
    assert read_institutions(path, where.keys()) == where
    assert read_institutions(path, ["003000"]) == {"003000": "2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n", r"index\.txt: got no line of one of the 2 cases, but '1' in the first; allowed are lines such as"),
        ("", r"index\.txt: got no line of one of the 2 cases; allowed are lines such as '001000 1'"),
        ("001000 1\n001000 2\n", r"index\.txt: got 001000 in 1 and in 2; allowed is one institution"),
        (b"\xff\xfe\xff", r"index\.txt: cannot be read .*; allowed is text with a line CASE INSTITUTION"),
    ],
)
def test_an_index_of_another_form_is_refused(tmp_path, text, message):
    (tmp_path / "index.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_institutions(tmp_path / "index.txt", ["001000", "002000"])


def test_lines_of_absent_cases_are_counted(tmp_path, caplog):
    path = tmp_path / "index.txt"
    path.write_text("".join(f"{name} 1\n" for name in NAMES))
    assert list(read_institutions(path, NAMES[:2])) == NAMES[:2]
    assert "16 lines name no case that is here" in caplog.text


@pytest.mark.parametrize("name", ["instiution.txt", "Institution.TXT"])
def test_the_index_is_found_as_it_is_spelt(source, tmp_path, name):
    (source / "institution.txt").rename(source / name)
    assert len(convert(source, tmp_path / "out").kept) == len(NAMES)


def test_an_index_can_be_given(source, tmp_path):
    (source / "institution.txt").unlink()
    with pytest.raises(DataError, match=r"got no institution\.txt; allowed is one .*; name it with --institutions"):
        convert(source, tmp_path / "out")
    (tmp_path / "own.csv").write_text("".join(f"{name},London\n" for name in NAMES))
    conversion = convert(source, tmp_path / "out", institutions=tmp_path / "own.csv")
    assert conversion.split["validation"] == NAMES[:2]
    assert len(conversion.split["training"]) == int(0.75 * 18) - 4


@pytest.mark.parametrize("kind", ["zip", "folder with data.zip", "zip with data.zip"])
def test_the_archives_as_they_are_published(source, tmp_path, pack, contents, kind):
    convert(source, tmp_path / "expected")
    given = source
    if kind != "zip":
        shipped = tmp_path / "shipped"
        shipped.mkdir()
        (source / "institution.txt").rename(shipped / "institution.txt")
        pack(source, shipped / "data.zip")
        given = shipped
    if kind.startswith("zip"):
        given = pack(given, tmp_path / "all.zip")
    convert(given, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_misfits_are_named_and_keep_their_place(source, tmp_path, save_volume, label_volume):
    data = source / "data"
    (data / f"{NAMES[0]}_mask.nii").unlink()
    (data / f"{NAMES[2]}_img.nii").unlink()
    save_volume(data / f"{NAMES[4]}_mask.nii", label_volume(0, 9))
    save_volume(data / f"{NAMES[6]}_img.nii.gz")
    save_volume(data / "900000_img.nii")
    save_volume(data / "900000_mask.nii", label_volume(0, 1))
    conversion = convert(source, tmp_path / "out")
    reasons = {misfit.case: misfit.reason for misfit in conversion.misfits}
    assert reasons.pop(NAMES[4]).startswith(f"data/{NAMES[4]}_mask.nii: got the label values 9")
    assert reasons == {
        NAMES[0]: f"data/{NAMES[0]}_img.nii: an image without a mask",
        NAMES[2]: f"data/{NAMES[2]}_mask.nii: a mask without an image",
        NAMES[
            6
        ]: f"data/{NAMES[6]}_img.nii, data/{NAMES[6]}_img.nii.gz, data/{NAMES[6]}_mask.nii: several files of one case",
        "900000": "data/900000_img.nii, data/900000_mask.nii: a case of no institution in the index",
    }
    assert conversion.split["validation"] == [NAMES[1], NAMES[3]]
    assert NAMES[8] in conversion.split["test"]


def test_the_command(source, tmp_path, capsys):
    index = source / "institution.txt"
    arguments = [str(source), "--output", str(tmp_path / "out"), "--institutions", str(index), "--workers", "1"]
    assert main(arguments) == 0
    assert "kept 18 pairs (4 training, 4 validation, 10 test), 0 misfits" in capsys.readouterr().out
    index.write_text("")
    assert main([str(source), "--output", str(tmp_path / "other"), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert "institution.txt: got no line of one of the 18 cases" in error
    assert error.count("\n") == 1
