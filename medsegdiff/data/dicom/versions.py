"""What pydicom 2 and 3 call by different names: the stack of MONAI Label holds pydicom below 3."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYWORD_SINCE = 3


def has_decoder(transfer_syntax: str) -> bool:
    """Whether pydicom can decode pixels that are stored in this way, with what is installed."""
    from pydicom.uid import UID

    syntax = UID(transfer_syntax)
    try:
        from pydicom.pixels import get_decoder
    except ImportError:
        from pydicom import config

        return any(h.is_available() and h.supports_transfer_syntax(syntax) for h in config.pixel_data_handlers)
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def apply_modality_table(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """The values that the modality look-up table of `dataset` gives to stored numbers."""
    name = "pydicom.pixels" if find_spec("pydicom.pixels") else "pydicom.pixel_data_handlers.util"
    return import_module(name).apply_modality_lut(stored, dataset)


def save_dicom(dataset: Dataset, path: Path) -> None:
    """Write a file with preamble and file meta information, in the transfer syntax that this names."""
    import pydicom

    if int(pydicom.__version__.partition(".")[0]) < _KEYWORD_SINCE:
        syntax = dataset.file_meta.TransferSyntaxUID
        dataset.is_little_endian, dataset.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
        dataset.save_as(path, write_like_original=False)
    else:
        dataset.save_as(path, enforce_file_format=True)


def without_quotes(message: str) -> str:
    """What a library says, on one line and without what it quotes from a header, such as a patient's name."""
    return re.sub(r"(['\"]).*\1", "…", " ".join(message.split()))


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Take values as they come, and say nothing of them: what pydicom says, it quotes, such as a patient's name."""
    from pydicom import config

    before = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode, config.settings.writing_validation_mode = before
