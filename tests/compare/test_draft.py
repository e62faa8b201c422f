"""What tells the data of one run from those of another."""

from __future__ import annotations

import pytest

from medsegdiff.compare.draft import digest_of_cases


@pytest.fixture
def cases(tmp_path):
    for name, content in (("image", b"0123"), ("label", b"0110")):
        (tmp_path / name).write_bytes(content)
    return [{"case": "a", "image": str(tmp_path / "image"), "label": str(tmp_path / "label")}]


def test_a_corrected_label_is_other_data_though_as_large(cases, tmp_path):
    before = digest_of_cases(cases)
    (tmp_path / "label").write_bytes(b"0111")
    assert digest_of_cases(cases) != before


def test_a_copy_is_the_same_data(cases, tmp_path):
    before = digest_of_cases(cases)
    for name in ("image", "label"):
        (tmp_path / f"copy of {name}").write_bytes((tmp_path / name).read_bytes())
    copy = [{"case": "a", "image": str(tmp_path / "copy of image"), "label": str(tmp_path / "copy of label")}]
    assert digest_of_cases(copy) == before


@pytest.mark.parametrize("change", [{"case": "b"}, {"image": "larger"}])
def test_another_name_or_size_is_other_data(cases, tmp_path, change):
    (tmp_path / "larger").write_bytes(b"01234")
    other = {key: str(tmp_path / value) if key == "image" else value for key, value in change.items()}
    assert digest_of_cases([{**cases[0], **other}]) != digest_of_cases(cases)


def test_the_order_of_cases_does_not_matter(cases):
    two = [*cases, {**cases[0], "case": "b"}]
    assert digest_of_cases(two) == digest_of_cases(two[::-1])
