"""What is asked of a server, and what it answers as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def ask(client: Any, image: str, output: str = "image", model: str = "hippocampus", **params: Any) -> Any:
    """The reply of a model that is asked about an image."""
    query = {"image": image, "output": output}
    return client.post(f"/infer/{model}", params=query, data={"params": json.dumps(params)})


def saved(reply: Any, path: Path) -> Path:
    """The file that a reply holds."""
    assert reply.status_code == 200, reply.text
    path.write_bytes(reply.content)
    return path


def is_one_line(reply: Any) -> bool:
    """Whether an error is told in a line, without what only a developer needs and without folders."""
    detail = reply.json()["detail"]
    return "\n" not in detail and "Traceback" not in detail and "/studies/" not in detail
