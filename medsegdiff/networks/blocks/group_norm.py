"""Group norm for any number of channels."""

from __future__ import annotations

from torch import nn

MAX_GROUPS = 32


def make_group_norm(channels: int, *, min_group_size: int = 4) -> nn.GroupNorm:
    """A group norm of 32 groups where the channels allow it, of as many as they allow otherwise.

    A group of a single channel would be an instance norm, which subtracts the time that a residual block adds as a
    constant per channel. Groups of four are those of the narrowest level of SegDiff's network, 128 channels in 32.

    Args:
        channels: C.
        min_group_size: least number of channels in a group; with fewer channels than that, all form one group.
    """
    most = max(1, min(MAX_GROUPS, channels // min_group_size))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)
