"""The README's Python runs as printed, and the files it names are there."""

from __future__ import annotations

import re


def test_the_python_of_the_readme_runs(repository):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), names)
        assert tuple(names["probabilities"].shape) == (1, 2, 32, 32, 32)
        assert names["result"].draws == 4


def test_the_files_that_the_readme_links_to_are_there(repository):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (repository / "README.md").read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if not (repository / link).exists()]
    assert not missing
