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
