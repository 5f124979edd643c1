"""Clean accuracy against the worst case, the size of a circle by members (AUTE, Fig. 1)."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from pipeline.core import metrics
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.figures._accuracy import accuracy
from pipeline.figures._exhibit import Recorded
from pipeline.tables.canvas import HOLLOW, SMALL, Pictures, drawn, looks
from pipeline.tables.labels import name_row

COLUMNS = ("row", "method", "members", "images", "seeds")
POINTS = [f"{of}{end}" for of in ("clean", "worst") for end in ("", "_low", "_high")]


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """A circle for each row and number of members, which grows with it.

    The worst case is that of every image over all attacks of the figure's suites.
    """

    reads_weights: ClassVar[bool] = False

    def numbers(self, shown: list[Recorded]) -> pd.DataFrame:
        """Both accuracies with their 95 % intervals, a line for each row and size."""
        groups: dict[str, list[Recorded]] = {}
        for item in shown:
            if len(item.attacks) < 2:
                raise UserError("params.yaml: figures: a trade-off needs suites, such as [core]")
            groups.setdefault(item.label, []).append(item)

        lines = []
        for label, items in groups.items():
            clean = [item.attacks["clean"].right for item in items]
            worst = [_worst(item) for item in items]
            members = int(items[0].settings["members"])
            method = label.replace(f" x{members}", "")
            about = (label, method, members, len(clean[0]), len(items))
            lines.append((*about, *accuracy(clean), *accuracy(worst)))
        return pd.DataFrame(lines, columns=[*COLUMNS, *POINTS])

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: a colour and a marker for each method, sizes joined by a line."""

        def paint(sheet: Figure) -> None:
            panel = sheet.add_subplot()
            rows = frame.groupby("method", sort=False)
            for (method, line), look in zip(rows, looks(), strict=False):
                x, y = 100 * line["clean"], 100 * line["worst"]
                panel.plot(x, y, color=look["color"], linewidth=0.8, alpha=0.5)

                # A flag on one size is said of the method.
                if "flags" in line:
                    line = line.sort_values("flags", ascending=False, kind="stable")
                name, style = name_row(method, line), {"marker": look["marker"]}
                panel.scatter([], [], c=look["color"], label=name, **style)
                for _, point in line.iterrows():
                    face = HOLLOW if point.get("not_trusted") else look["color"]
                    at, area = (100 * point["clean"], 100 * point["worst"]), 25 * point["members"]
                    panel.scatter(*at, s=area, c=face, edgecolors=look["color"], zorder=2, **style)

            known = ", ".join(map(str, sorted(frame["members"].unique())))
            panel.set_xlabel("clean accuracy, %")
            panel.set_ylabel("worst case, % (hollow: not ranked)")
            panel.grid(alpha=0.3)
            panel.legend(
                title=f"size by members: {known}",
                title_fontsize=SMALL,
                loc="center left",
                bbox_to_anchor=(1, 0.5),
            )

        return drawn((7, 4.5), title, paint)


def _worst(item: Recorded) -> Verdicts:
    return metrics.worst([a.right for name, a in item.attacks.items() if name != "clean"])
