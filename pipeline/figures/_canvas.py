"""Pictures whose bytes repeat: no date, no user's style, no screen."""

import io
from collections.abc import Callable

from matplotlib import style
from matplotlib.figure import Figure

DPI = 110
SMALL = 8  # points


def drawn(size: tuple[float, float], title: str, paint: Callable[[Figure], None]) -> bytes:
    """PNG of what `paint` puts on an empty sheet of this size in inches."""
    with style.context("default"):
        sheet = Figure(figsize=size, layout="constrained")
        sheet.suptitle(title, fontsize=10)
        paint(sheet)
        buffer = io.BytesIO()
        # Matplotlib would name its version there, and the bytes would change with it.
        sheet.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
