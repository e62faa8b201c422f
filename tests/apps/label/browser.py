"""OHIF in a headless Chromium, and what is seen in it."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, Request, Response, sync_playwright

CHROMIUM = shutil.which("chromium")
MISSING = "no Chromium: apt-get install chromium"
MILLISECONDS_TO_WAIT = 180_000
_CANVASES = "canvas.cornerstone-canvas"
# The three viewports show something, something else than when this was last asked for, and have not changed since.
_SETTLED = """([canvases, still]) => {
    const shown = [...document.querySelectorAll(canvases)].filter((one) => one.width > 0 && one.height > 0);
    const lit = (one) => one.getContext("2d").getImageData(0, 0, one.width, one.height).data
        .some((value, at) => at % 4 < 3 && value > 0);
    const seen = shown.map((one) => one.toDataURL()).join();
    if (seen !== window.seen) [window.seen, window.since] = [seen, performance.now()];
    const done = shown.length === 3 && shown.every(lit) && seen !== window.settled
        && performance.now() - window.since > still;
    if (done) window.settled = seen;
    return done;
}"""


class Screen:
    """OHIF's page of MONAI Label, as somebody sits before it.

    Args:
        page: an empty page.
        address: of the server.
        folder: where pictures of the screen are kept.
    """

    def __init__(self, page: Page, address: str, folder: Path) -> None:
        self.page = page
        self.address = address
        self.folder = folder
        self.failures: list[str] = []
        page.on("pageerror", lambda error: self.failures.append(str(error)))
        page.on("response", self._look_at)
        page.on("requestfailed", self._look_at_failed)

    @property
    def segmentation(self) -> Locator:
        """The part of the panel in which a model is chosen and run."""
        return self.page.locator("div.tab", has=self.page.get_by_text("Auto-Segmentation", exact=True))

    @property
    def axial_slice(self) -> int:
        """Index of the slice that the axial viewport shows, which counts them from the head."""
        text = self.page.get_by_text(re.compile(r"I:\s*\d+")).first.inner_text()
        shown, number = map(int, re.findall(r"(\d+)/(\d+)", text)[0])
        return number - shown

    def open(self, patient_id: str) -> None:
        """Open the study of a patient from the list, having agreed that the viewer is for research."""
        self.page.goto(f"{self.address}/ohif/")
        self.page.get_by_role("button", name="Confirm and Hide").click()
        self.page.get_by_text(patient_id, exact=True).first.click()
        self.page.get_by_role("button", name="MONAI Label").click()

    def connect(self) -> None:
        """Connect the panel to the server that it names."""
        self.page.locator(".settingsTable button").click()
        self.segmentation.wait_for()

    def choose(self, model: str, **options: int) -> None:
        """Set options of a model in the dialogue that the panel has for them."""
        self.page.get_by_text("Options / Configurations").click()
        form = self.page.locator(".optionsForm")
        form.locator("select[name=selectSection]").select_option("infer")
        form.locator("select[name=selectName]").select_option(model)
        for name, value in options.items():
            self.page.locator(f"#infer{model}{name}").fill(str(value))
        self.page.get_by_role("button", name="Confirm", exact=True).click()

    def run(self, model: str) -> Response:
        """Run a model; the reply that the page got."""
        self.segmentation.locator("select").select_option(model)
        with self.page.expect_response(lambda reply: f"/infer/{model}?" in reply.url) as reply:
            self.segmentation.get_by_role("button", name="Run", exact=True).click()
        return reply.value

    def pictures(self, name: str) -> list[np.ndarray]:
        """What the viewports show, each (rows, columns, RGB), once that is new and stays; keeps a PNG of the screen."""
        self.page.wait_for_function(_SETTLED, arg=[_CANVASES, 2000], polling=250)
        self.page.screenshot(path=self.folder / f"{name}.png")
        addresses = self.page.locator(_CANVASES).evaluate_all("all => all.map((one) => one.toDataURL())")
        files = [io.BytesIO(base64.b64decode(address.partition(",")[2])) for address in addresses]
        return [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files]

    def _look_at(self, reply: Response) -> None:
        if reply.status >= 500:
            self.failures.append(f"{reply.status} {reply.url}")

    def _look_at_failed(self, request: Request) -> None:
        if request.url.startswith(self.address):
            self.failures.append(f"{request.failure} {request.url}")


@contextmanager
def screen(address: str, folder: Path) -> Iterator[Screen]:
    """A browser that reaches nothing but the server; its last picture is kept however it ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--enable-unsafe-swiftshader"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(MILLISECONDS_TO_WAIT)
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())
        try:
            yield Screen(page, address, folder)
        finally:
            page.screenshot(path=folder / "last.png")
            browser.close()
