"""How figures look: colours, sizes in inches and fonts, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seglab.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), told apart by the colour-blind; without their yellow, which paper swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
BLUE, VERMILION, GREY, PALE, INK = COLOURS[0], COLOURS[1], "#767676", "#C9CED6", "#222222"
COLUMN, PAGE = 4.4, 6.9
"""Widths in inches: one column with its legend, and a page."""

HOUSE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.0,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E4E7EC",
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "text.color": INK,
    "text.parse_math": False,  # a name with $ or _ in it is a name
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "seglab",  # the same sweep gives the same file
}


@contextmanager
def house() -> Iterator[None]:
    """The style, for as long as a figure is drawn or saved; the caller's own settings come back."""
    import matplotlib.style

    with matplotlib.style.context(["default", HOUSE]):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches; it belongs to its caller, not to pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def label(metric: str, score: Score) -> str:
    """An axis label: ``test mIoU (%)``, ``test NLL (nats)``."""
    return metric.replace("/", " ") + (f" ({score.sign})" if score.sign else "")
