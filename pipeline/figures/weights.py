"""Histograms of weights (MEAT, Fig. 1b)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import UserError
from pipeline.figures._exhibit import Loaded
from pipeline.tables.canvas import SMALL, Pictures, drawn, looks
from pipeline.tables.labels import name_row

COLUMNS = ("row", "low", "high", "count", "share", "deviation")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How many weights of the last convolution have which value, in `bins` of equal width over
    the values of all rows; members and seeds of a row are counted together.

    The last one is the last to be registered whose kernel is larger than a pixel: a shortcut's
    projection is none.
    """

    bins: int

    reads_weights: ClassVar[bool] = True
    pools_seeds: ClassVar[bool] = True

    def numbers(self, shown: list[Loaded]) -> pd.DataFrame:
        """Counts by row and bin, with the standard deviation of all the row's weights."""
        parts: dict[str, list[NDArray[np.float64]]] = {}
        for item in shown:
            parts.setdefault(item.label, []).extend(map(last_convolution, item.victim.members))

        rows = {row: np.concatenate(found) for row, found in parts.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(rows.values())), self.bins)

        lines = []
        for row, weights in rows.items():
            counts = np.histogram(weights, edges)[0]
            for low, high, count in zip(edges, edges[1:], counts, strict=False):
                lines.append((row, low, high, int(count), count / len(weights), weights.std()))
        return pd.DataFrame(lines, columns=list(COLUMNS))

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: a line for each row, logarithmic, for the tails are what differs."""

        def paint(sheet: Figure) -> None:
            panel = sheet.subplots()
            rows = frame.groupby("row", sort=False)
            for (row, line), look in zip(rows, looks(), strict=False):
                edges = [*line["low"], line["high"].iloc[-1]]
                style = {"color": look["color"], "linestyle": look["linestyle"]}
                name = f"{name_row(row, line)}, deviation {line['deviation'].iloc[0]:.4g}"
                panel.stairs(line["count"], edges, label=name, linewidth=1.5, **style)

            panel.set_yscale("log")
            panel.set_xlabel("weight of the last convolution")
            panel.set_ylabel("weights")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=SMALL)

        return drawn((5.5, 4), title, paint)


def last_convolution(net: nn.Module) -> NDArray[np.float64]:
    """All weights of the last convolution of a network, flat; raises UserError without one."""
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    found = [c for c in convolutions if max(c.kernel_size) > 1]
    if not found:
        kind = type(net).__name__
        raise UserError(f"params.yaml: figures: {kind} stores no weights of a convolution")
    flat: NDArray[np.float64] = found[-1].weight.detach().double().flatten().cpu().numpy()
    return flat
