"""Counting the memory of tensors without making them."""

from __future__ import annotations

import contextlib
import copy
import logging
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

MARGIN = 1.5
"""Tensors are counted; convolution libraries take more for themselves. On a CPU up to half as much was seen."""

Module = TypeVar("Module", bound=nn.Module)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside of it and live: `bytes` at present, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor):
                self._count(made.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:  # a view
            return
        self._sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)


@contextlib.contextmanager
def without_content() -> Iterator[Any]:
    """Inside, tensors have a shape, a type and a device, but no content, and take no memory.

    Gives the mode of torch that does it, for `weightless`. What depends on content, such as `.item()`, raises a
    RuntimeError or TypeError.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    # torch logs, with a traceback, about a network that cannot be followed.
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        with torch.compiler.set_stance("force_eager"), FakeTensorMode(allow_non_fake_inputs=True) as fake:
            yield fake
    finally:
        logger.disabled = disabled


def weightless(module: Module, fake: Any) -> Module:
    """A copy whose weights have no content, so that nothing that the module remembers of a call stays with it."""
    weights = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): fake.from_tensor(tensor) for tensor in weights})
