"""Networks behind what spreads them over several processes."""

from __future__ import annotations

from typing import Any


def unwrapped(network: Any) -> Any:
    """The network itself: DDP keeps it as `module`."""
    return getattr(network, "module", network)
