"""The page as a browser shows it, from the disk and without any network."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from medsegdiff.view.page import case_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# WebGL 2 without a graphics card; time that runs as fast as the page is done.
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--window-size=1000,800", "--virtual-time-budget=20000", "--dump-dom"),
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open a page with")
def test_the_page_opens_and_tells_what_is_at_the_first_place(make_case, tmp_path):
    pytest.importorskip("ipyniivue", reason="extra `pages` is not installed")
    (tmp_path / "page.html").write_text(case_page(make_case(), b""), encoding="utf-8")
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=True).stdout
    assert re.search(r'<output id="place">(.*?)</output>', dom)[1] == "voxel 4, 5, 1 · organ · uncertainty 0.50"
