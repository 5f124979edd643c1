"""One look for every picture, as PNG for a screen and PDF for a paper, whose bytes repeat.

Colours are those of Okabe and Ito, told apart by the colour-blind, and every line has dashes and a
marker of its own besides: a picture reads in grey, too.
"""

import io
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

from matplotlib import rc_context, rcParamsDefault
from matplotlib.figure import Figure

Pictures = dict[str, bytes]  # by suffix

DPI = 120
SMALL = 8  # points
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)))
MARKERS = ("o", "s", "^", "D", "v", "<", ">", "p", "P", "X", "*")
HOLLOW = "white"  # inside of the marker of what is not ranked
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "pdf.fonttype": 42,  # outlines that journals take; type 3 is refused by some
}
# no date, no versions: equal numbers give equal bytes
ABOUT: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def drawn(size: tuple[float, float], title: str, paint: Callable[[Figure], None]) -> Pictures:
    """What `paint` puts on an empty sheet of this size in inches, by suffix.

    No user's style counts, and no screen is asked for.
    """
    found: Pictures = {}
    with rc_context({**rcParamsDefault, **STYLE}):
        sheet = Figure(figsize=size, layout="constrained")
        sheet.suptitle(title, fontsize=10)
        paint(sheet)
        for kind, about in ABOUT.items():
            buffer = io.BytesIO()
            sheet.savefig(buffer, format=kind, dpi=DPI, metadata=about)
            found[f".{kind}"] = buffer.getvalue()
    return found


def looks() -> Iterator[dict[str, Any]]:
    """Colour, dashes and marker of one line after the other."""
    for colour, dashes, marker in zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False):
        yield {"color": colour, "linestyle": dashes, "marker": marker}


def ranked(line: Any) -> dict[str, Any]:
    """Inside of a line's markers: hollow where its numbers `not_trusted` are not ranked."""
    return (
        {"markerfacecolor": HOLLOW} if "not_trusted" in line and line["not_trusted"].any() else {}
    )
