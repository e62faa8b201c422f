from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label import viewer


def _script():
    """Name of the viewer's script with the colours."""
    (found,) = [file.name for file in viewer._OHIF.glob("*.js") if "const GenericAnatomyColors = [" in file.read_text()]
    return found


def test_the_viewer_and_nothing_beside_it_is_served(client):
    page = client.get("/ohif/").text
    assert "<html" in page
    assert client.get("/ohif/viewer/some/address").text == page
    for path in ("..%2f..%2f..%2fapp.py", "a%00b", "a" * 300):
        assert client.get(f"/ohif/{path}").text == page
    script = re.search(r'src="/ohif/([^"]+\.js)"', page)
    assert script is not None
    assert client.get(f"/ohif/{script[1]}").text == (viewer._OHIF / script[1]).read_text()


def test_the_panel_finds_the_server_that_served_it(client):
    cookie = client.get("/ohif/monai-label", headers={"host": "ward-7.local:8123"}).headers["set-cookie"]
    value, *rest = cookie.split(";")
    name, _, address = value.partition("=")
    assert (name, unquote(address)) == ("MONAILABEL_SERVER_URL", "http://ward-7.local:8123/")
    assert "Path=/ohif" in [part.strip() for part in rest]  # where the panel keeps what a user types
    assert "set-cookie" not in client.get(f"/ohif/{_script()}").headers


def test_labels_have_the_colours_of_the_bundle_and_of_the_bands(client):
    reply = client.get(f"/ohif/{_script()}")
    assert reply.headers["content-type"].startswith("text/javascript")
    own = re.search(r"const GenericAnatomyColors = \[(.*)\{", reply.text)
    assert own is not None
    entries = re.findall(r'\{"label": "([^"]+)", "value": "(#[0-9a-f]{6})"\}', own[1])
    assert dict(entries) == {
        "anterior": "#dc143c",
        "posterior": "#4169e1",
        "uncertainty above 25%": "#ffe15a",
        "uncertainty above 50%": "#ff8c00",
        "uncertainty above 75%": "#d7191c",
    }
    assert reply.text.replace(own[1], "", 1) == (viewer._OHIF / _script()).read_text()
