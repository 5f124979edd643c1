"""Loss surfaces over two directions: their numbers and their picture."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.canvas import SMALL, drawn
from pipeline.plane import offsets

WHOLE = "all members"
COLUMNS = ("row", "of", "along", "across", "loss")


def surface(
    label: str,
    half: int,
    length: float,
    losses: Callable[[float, float], tuple[Tensor, Tensor]],
    members: int,
) -> list[tuple[str, str, float, float, float]]:
    """Lines of COLUMNS: mean loss of the first `members` members and of all of them, at every
    point (along, across) of a grid of +-length."""
    lines = []
    steps = [length * step for step in offsets(half)]
    for along in steps:
        for across in steps:
            members_KB, whole_B = losses(along, across)
            found = {WHOLE: float(whole_B.mean())}
            if len(members_KB) > 1:
                own = {f"member {i}": float(m.mean()) for i, m in enumerate(members_KB[:members])}
                found = own | found
            lines += [(label, of, along, across, loss) for of, loss in found.items()]
    return lines


def draw(frame: pd.DataFrame, title: str, names: tuple[str, str]) -> bytes:
    """PNG: one line of panels a row of the table, members first; one scale of losses for all."""
    rows, parts = list(dict.fromkeys(frame["row"])), list(dict.fromkeys(frame["of"]))
    limits = (float(frame["loss"].min()), float(frame["loss"].max()))

    def paint(sheet: Figure) -> None:
        for i, row in enumerate(rows):
            for j, part in enumerate(parts):
                own = frame[(frame["row"] == row) & (frame["of"] == part)]
                if not own.empty:
                    place = (len(rows), len(parts), i * len(parts) + j + 1)
                    panel = sheet.add_subplot(*place, projection="3d")
                    panel.set_title(f"{row}: {part}", fontsize=SMALL)
                    _paint(panel, own, limits, names)

    return drawn((3.6 * len(parts), 3.2 * len(rows) + 0.6), title, paint)


def _paint(
    panel: Any, own: pd.DataFrame, limits: tuple[float, float], names: tuple[str, str]
) -> None:
    loss = own.pivot(index="across", columns="along", values="loss")
    along, across = np.meshgrid(loss.columns, loss.index)
    low, high = limits
    panel.plot_surface(
        along, across, loss.to_numpy(), cmap="viridis", vmin=low, vmax=high, rcount=100, ccount=100
    )
    panel.set_zlim(low, high)
    panel.set_xlabel(names[0], fontsize=SMALL)
    panel.set_ylabel(names[1], fontsize=SMALL)
    panel.set_zlabel("cross-entropy", fontsize=SMALL)
    panel.tick_params(labelsize=SMALL - 2)
