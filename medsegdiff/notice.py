"""What every result says of itself."""

from __future__ import annotations

from medsegdiff import __version__

RESEARCH_ONLY = "Research use only; not a medical device."
_LONGEST = 79  # bytes of a NIfTI header's description


def short_notice(bundle: str = "") -> str:
    """The notice where there is little space, such as in a NIfTI header: at most 79 bytes.

    Args:
        bundle: name of the bundle that made the result.
    """
    text = f"research use only; medsegdiff {__version__} {bundle}".strip()
    return text.encode()[:_LONGEST].decode(errors="ignore")
