"""How figures look, and as which files they are written."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#b9bec5"
DPI = 130

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9ebee",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this package inside of the block, whatever is set outside."""
    import matplotlib as mpl

    settings: Any = {**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **_STYLE}
    with mpl.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that no window belongs to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, file: Path | IO[bytes], *, colours: int = 255, description: str = "") -> None:
    """Write a PNG of few colours, a third of the size of one with all; the same figure gives the same bytes.

    Args:
        figure: what to draw.
        file: where to write it.
        colours: how many at most.
        description: for its text.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    buffer = io.BytesIO()
    with warnings.catch_warnings(), styled():
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied.*")
        figure.savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
    buffer.seek(0)
    # Not by the median cut, which gives up a colour that only a few pixels have, such as that of a small error.
    picture = Image.open(buffer).convert("RGB")
    picture = picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    text = PngInfo()
    if description:
        text.add_text("Description", description)
    picture.save(file, format="png", optimize=True, pnginfo=text)
