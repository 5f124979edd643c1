"""Small charts of a row as SVG that takes the page's own colour, in light and in dark."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.tables.canvas import looks

INK = "#010203"  # stands for the page's colour of text, which a picture cannot know
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor")},
    **{key: INK for key in ("xtick.color", "ytick.color")},
}

Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], across: str) -> str:
    """Percentages against `across`, one line a series; nothing without a point."""
    shown = {name: points for name, points in series.items() if points}
    if not shown:
        return ""

    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for (name, points), look in zip(shown.items(), _looks(), strict=False):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, **look, markersize=3, label=name)

        axes.set_xlabel(across)
        axes.set_ylabel("%")
        axes.set_ylim(-2, 102)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, framealpha=0, loc="best")
        axes.patch.set_alpha(0)
        return _write_inline(figure)


def dot(mean: float, low: float | None, high: float | None, hollow: bool) -> str:
    """An accuracy with its interval on a line from 0 to 1; `hollow` where it is not trusted."""
    fill, bar = "none" if hollow else "currentColor", ""
    if low is not None and high is not None:
        bar = f'<line x1="{100 * low:.1f}" x2="{100 * high:.1f}" y1="6" y2="6" class="bar"/>'
    return (
        '<svg class="dot" viewBox="0 0 100 12" width="100" height="12" aria-hidden="true">'
        '<line x1="0" x2="100" y1="6" y2="6" class="rail"/>'
        f"{bar}"
        f'<circle cx="{100 * mean:.1f}" cy="6" r="4" fill="{fill}" class="mark"/></svg>'
    )


def _looks() -> Iterator[dict[str, Any]]:
    """Those of the pictures; what is black there is the page's own colour, seen in the dark too."""
    for look in looks():
        yield look | ({"color": INK} if look["color"] == "#000000" else {})


def _write_inline(figure: Figure) -> str:
    """The drawing as an element of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")
