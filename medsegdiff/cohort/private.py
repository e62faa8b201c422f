"""Results that are handed on name files, never the folders in which they lie: those may be called after a patient."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def file_names(paths: Sequence[Path]) -> str | list[str]:
    """The name of an image's file, or those of its files, without folders."""
    names = [path.name for path in paths]
    return names[0] if len(names) == 1 else names


def without_folders(text: str, paths: Iterable[Path]) -> str:
    """`text` in which these paths, and what lies in them or beside them, are named without the folders above."""
    folders = {str(folder) for path in paths for folder in (path.parent, Path(os.path.abspath(path)).parent)}
    for folder in sorted(folders - {".", os.sep}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(folder + os.sep)}", "", text)
    return text
