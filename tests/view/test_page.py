from __future__ import annotations

import base64
import gzip
import html
import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from medsegdiff.view import page as module
from medsegdiff.view.page import case_page

pytest.importorskip("ipyniivue", reason="extra `pages` is not installed")


def _view(text):
    return json.loads(re.search(r"^const view = (.*);$", text, re.MULTILINE)[1])


def _volume(packed):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))


def _visible(text):
    """The page without script and style."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)))


def test_it_holds_image_segmentation_and_uncertainty(make_case):
    case = make_case()
    view = _view(case_page(case, b"png"))
    [image] = case.channels.values()
    [channel] = view["channels"]
    shown = _volume(channel["data"])
    np.testing.assert_allclose(shown.get_fdata(), image, atol=1 / 4095)
    np.testing.assert_allclose(shown.affine, case.affine)
    np.testing.assert_array_equal(_volume(view["label"]).get_fdata(), case.label)
    np.testing.assert_allclose(_volume(view["uncertainty"]).get_fdata(), case.uncertainty, atol=1 / 255)
    assert view["classes"] == [{"name": "organ", "rgb": [255, 0, 0]}]
    assert case.label[tuple(view["start"])] == 1


def test_whole_numbers_are_kept_as_they_are(make_case):
    case = make_case()
    case.channels["image"] = np.arange(-60, 60).reshape(4, 6, 5).astype(np.int32)
    [channel] = _view(case_page(case, b""))["channels"]
    np.testing.assert_array_equal(_volume(channel["data"]).get_fdata(), case.channels["image"])


def test_it_says_what_it_is_for_what_was_found_and_by_what(make_case):
    text = _visible(case_page(make_case("p_1"), b"png"))
    assert "Research use only; not a medical device." in text
    assert re.search(r"organ\s*0.01 ml", text) and re.search(r"model\s*organs 1.0", text)
    assert "No foreground was found" not in text and "Shown at" not in text


def test_without_foreground_it_says_so_and_begins_in_the_middle(make_case):
    case = make_case(empty=True)
    case = replace(case, classes=[replace(case.classes[0], voxels=0)], uncertainty=None)
    text = case_page(case, b"")
    assert "No foreground was found: every voxel is background." in _visible(text)
    assert _view(text)["start"] == [2, 3, 2] and _view(text)["uncertainty"] is None
    assert 'id="uncertainty"' not in text


def test_a_large_volume_is_shown_smaller_and_the_page_says_so(make_case, monkeypatch):
    monkeypatch.setattr(module, "reduced", lambda case, reduced=module.reduced: reduced(case, most=60))
    text = case_page(make_case(), b"")
    assert "Shown at 4 × 3 × 5 voxels of the 4 × 6 × 5 that there are (1 × 2 × 1 became one)" in _visible(text)
    assert _volume(_view(text)["label"]).shape == (4, 3, 5)


def test_names_are_text_whatever_they_hold(make_case):
    evil = '</script><img src=x onerror="alert(1)"> & \u2028'
    case = make_case(evil, facts={evil: evil})
    case = replace(case, channels={evil: case.label, "b": case.label}, classes=[replace(case.classes[0], name=evil)])
    text = case_page(case, b"")
    assert "<img src=x" not in text and _visible(text).count(evil) == 6  # title, heading, class, fact twice, channel
    assert _view(text)["classes"][0]["name"] == _view(text)["channels"][0]["name"] == evil
    assert text.count("</script>") == 1


def test_nothing_is_fetched_from_anywhere(make_case):
    text = case_page(make_case(), b"")
    own = text.replace(module.niivue_module(), "")
    assert not re.search(r"(src|href)=[\"'](?!data:)", own) and "http" not in re.sub(r"http-equiv", "", own)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'") and "connect-src data: blob:" in policy and "http" not in policy
