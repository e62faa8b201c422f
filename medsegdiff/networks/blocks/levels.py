"""The levels of a U-Net: how deep each is, and whether its settings fit."""

from __future__ import annotations

from collections.abc import Sequence

from medsegdiff.errors import SpecError


def level_depths(
    spatial_dims: int,
    channels: Sequence[int],
    num_res_blocks: int | Sequence[int],
    *,
    least: int,
    attention_levels: Sequence[int] = (),
) -> list[int]:
    """The number of encoder blocks of each level, where one number serves all levels.

    Args:
        spatial_dims: 2 or 3.
        channels: features of each level.
        num_res_blocks: blocks of each level, or one number.
        least: blocks that a level needs.
        attention_levels: levels with attention, 0 being full resolution.

    Raises:
        SpecError: these contradict each other.
    """
    depths = [num_res_blocks] * len(channels) if isinstance(num_res_blocks, int) else list(num_res_blocks)
    if spatial_dims not in (2, 3):
        msg = f"spatial_dims must be 2 or 3, got {spatial_dims}"
        raise SpecError(msg)
    if len(depths) != len(channels) or not channels:
        msg = f"num_res_blocks has {len(depths)} entries for {len(channels)} levels of channels; give one per level"
        raise SpecError(msg)
    if min(depths) < least:
        msg = f"num_res_blocks is {list(depths)}; give {least} or more blocks for each level"
        raise SpecError(msg)
    unknown = [level for level in attention_levels if not 0 <= level < len(channels)]
    if unknown:
        msg = f"attention_levels holds {unknown}; the levels of this network are 0 to {len(channels) - 1}"
        raise SpecError(msg)
    return depths
