"""Histograms of margins on clean and adversarial images (AUTE, Fig. 4), from records."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.figures._exhibit import Recorded
from pipeline.flags.evidence import Attack
from pipeline.tables.canvas import SMALL, Pictures, drawn, looks
from pipeline.tables.labels import name_row, read

COLUMNS = ("row", "images", "low", "high", "count", "share")


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many images have which D = p_y - max_{k != y} p_k (AUTE, Eq. 3), in `bins` of [-1, 1].

    p is the victim's softmax; of a random victim, that of the members' mean logits. columns:
    `clean` and attacks of the records, whose images are those that the attack left.
    """

    columns: list[str]
    bins: int

    reads_weights: ClassVar[bool] = False

    def numbers(self, shown: list[Recorded]) -> pd.DataFrame:
        """Counts by row, column and bin; the seeds of a row are counted together."""
        edges = np.linspace(-1, 1, self.bins + 1)
        margins: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
        for item in shown:
            for column in self.columns:
                found = distances(item.attacks[column])
                margins.setdefault((item.label, column), []).append(found)

        lines = []
        for (row, column), parts in margins.items():
            counts = np.histogram(np.concatenate(parts), edges)[0]
            for low, high, count in zip(edges, edges[1:], counts, strict=False):
                lines.append((row, column, low, high, int(count), count / counts.sum()))
        return pd.DataFrame(lines, columns=list(COLUMNS))

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: a panel for each column, a line for each row."""

        def paint(sheet: Figure) -> None:
            panels = sheet.subplots(1, len(self.columns), sharey=True, squeeze=False)[0]
            for panel, column in zip(panels, self.columns, strict=True):
                own = frame[frame["images"] == column]
                rows = own.groupby("row", sort=False)
                for (row, line), look in zip(rows, looks(), strict=False):
                    edges = [*line["low"], line["high"].iloc[-1]]
                    style = {"color": look["color"], "linestyle": look["linestyle"]}
                    name = name_row(row, line)
                    panel.stairs(100 * line["share"], edges, label=name, linewidth=1.5, **style)
                panel.axvline(0, color="black", linewidth=0.8, linestyle=":")
                panel.set_title(read(column), fontsize=SMALL + 1)
                panel.set_xlabel("margin $p_y - \\max_{k \\neq y} p_k$ (right of 0: correct)")
                panel.grid(alpha=0.3)

            panels[0].set_ylabel("images, %")
            panels[-1].legend(fontsize=SMALL)

        return drawn((4.5 * len(self.columns), 4), title, paint)


def distances(attack: Attack) -> NDArray[np.float64]:
    """D of every image, in [-1, 1], from its recorded loss -log p_y and its margin of scores.

    Scores are logits or log-probabilities: their margin is log p_y - log p_k either way.
    """
    log_true = -attack.arrays["loss"].astype(np.float64)
    log_rival = log_true - attack.arrays["margin"].astype(np.float64)
    distance: NDArray[np.float64] = np.exp(log_true) - np.exp(log_rival)
    return distance.clip(-1, 1)
