"""Accuracy along a setting of the attack or of the table: a radius, a weight, an epoch."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure

from pipeline.core import metrics
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.figures._accuracy import accuracy
from pipeline.figures._exhibit import Recorded
from pipeline.flags.evidence import Attack
from pipeline.plan.params import schema
from pipeline.tables.canvas import HOLLOW, SMALL, Pictures, drawn, looks
from pipeline.tables.labels import name_row, read

WORST = "worst case"
Points = dict[tuple[str, str], dict[float, list[Verdicts]]]  # by line and point, one a seed
COLUMNS = ("row", "attack", "accuracy", "low", "high", "images", "seeds")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A line for each row, and for each group of attacks that differ in `along` alone.

    along: an axis of the table, or a field of the attacks; attacks without it are left out. show:
    every group of attacks, of each row the strongest one (of the lowest mean accuracy), or the
    worst case of every image over all of them.
    """

    along: str
    symbol: str
    spacing: Literal["linear", "log"]
    show: Literal["each", "strongest", "worst"]

    reads_weights: ClassVar[bool] = False

    def numbers(self, shown: list[Recorded]) -> pd.DataFrame:
        """Accuracy with its 95 % interval at every point of every line."""
        found = self._points(shown)
        if self.show == "worst":
            found = _worst(found)

        lines = [
            (row, attack, x, *accuracy(vectors), len(vectors[0]), len(vectors))
            for (row, attack), points in found.items()
            for x, vectors in sorted(points.items())
        ]
        frame = pd.DataFrame(lines, columns=[*COLUMNS[:2], self.along, *COLUMNS[2:]])

        if self.show != "strongest":
            return frame

        means = frame.groupby(["row", "attack"], sort=False)["accuracy"].mean()
        kept = set(means.groupby("row", sort=False).idxmin())
        rows = [pair in kept for pair in zip(frame["row"], frame["attack"], strict=True)]
        return frame[rows].reset_index(drop=True)

    def _points(self, shown: list[Recorded]) -> Points:
        """Verdicts, one vector a seed, by line and point."""
        groups: dict[str, list[str]] = {}
        seen: list[tuple[str, str, float, Verdicts]] = []
        met: set[tuple[str, str, float, str]] = set()
        for item in shown:
            taken: Counter[tuple[str, float]] = Counter()
            for attack in item.attacks.values():
                x = item.settings.get(self.along, attack.field(self.along))
                if x is not None and attack.name != "clean":
                    key = self._group(attack)
                    taken[key, x] += 1  # attacks of equal settings and other draws: other lines
                    key += str(taken[key, x])
                    place = (item.label, key, float(x))
                    if (*place, item.victim) not in met:  # else a point that a scale made another
                        met.add((*place, item.victim))
                        groups.setdefault(key, []).append(attack.name)
                        seen.append((*place, attack.right))
        if not seen:
            raise UserError(f"params.yaml: figures: nothing that is shown varies in {self.along!r}")

        names = {key: _common(found) for key, found in groups.items()}
        shared = Counter((row, names[key]) for row, key in {(row, key) for row, key, *_ in seen})
        twice = {name for (_, name), count in shared.items() if count > 1}  # lines of one row
        for key in [key for key, name in names.items() if name in twice]:
            names[key] = " to ".join(dict.fromkeys((groups[key][0], groups[key][-1])))

        points: Points = {}
        for row, key, x, verdicts in seen:
            line = points.setdefault((row, names[key]), {})
            line.setdefault(x, []).append(verdicts)
        return points

    def _group(self, attack: Attack) -> str:
        """What attacks of one line share: all but `along`; other radii follow a radius."""
        fields: dict[str, Any] = dict(attack.spec["fields"])
        types = schema.component("attacks", attack.spec["component"]).types
        # Step sizes follow the radius of their attack: they make no line of their own.
        followers = [k for k, t in types.items() if t == "Radius"]
        for key in {self.along, *(followers if self.along in followers else [])}:
            fields.pop(key, None)
        if isinstance(fields.get("arguments"), dict):  # of a library's class
            fields["arguments"] = {k: v for k, v in fields["arguments"].items() if k != self.along}

        parts = [attack.spec["component"], attack.spec.get("surrogate"), fields]
        return json.dumps(parts, sort_keys=True)

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: accuracy in percent, a band for the interval."""
        several = self.show == "strongest" or frame.groupby("row")["attack"].nunique().max() > 1
        ticks = sorted(frame[self.along].unique())

        def paint(sheet: Figure) -> None:
            panel = sheet.add_subplot()
            lines = frame.groupby(["row", "attack"], sort=False)
            for ((row, attack), line), look in zip(lines, looks(), strict=False):
                name = name_row(row, line) + (f", {read(attack)}" if several else "")
                x, percent = line[self.along], 100 * line["accuracy"]
                panel.plot(x, percent, **look, markersize=4, label=name)
                if "not_trusted" in line:
                    doubtful = line["not_trusted"] != ""
                    hollow = look | {"linestyle": "none", "markerfacecolor": HOLLOW}
                    panel.plot(x[doubtful], percent[doubtful], **hollow, markersize=4)
                band = (100 * line["low"], 100 * line["high"])
                panel.fill_between(x, *band, alpha=0.12, color=look["color"], linewidth=0)

            # Linear below the least positive point, so that 0 stands on the axis too.
            if self.spacing == "log":
                least = frame[self.along][frame[self.along] > 0].min()
                panel.set_xscale("symlog", linthresh=least)
                panel.set_xlim(left=0)
            panel.set_xticks(ticks, [f"{x:.3g}" for x in ticks], fontsize=SMALL)

            low = 100 * frame[["accuracy", "low"]].min().min()
            high = 100 * frame[["accuracy", "high"]].max().max()
            panel.set_ylim(max(low - 3, -2), min(high + 3, 102))

            panel.set_xlabel(self.symbol)
            panel.set_ylabel("accuracy, % (band: 95 % interval; hollow: not ranked)")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=SMALL, loc="center left", bbox_to_anchor=(1, 0.5))

        return drawn((8.5, 4.5), title, paint)


def _worst(found: Points) -> Points:
    """One line a row: per image and seed, right under every attack of the same point."""
    joined: dict[str, dict[float, list[list[Verdicts]]]] = {}
    for (row, _), points in found.items():
        for x, seeds in points.items():
            joined.setdefault(row, {}).setdefault(x, []).append(seeds)
    return {
        (row, WORST): {
            x: [metrics.worst(list(of_seed)) for of_seed in zip(*groups, strict=True)]
            for x, groups in points.items()
        }
        for row, points in joined.items()
    }


def _common(names: list[str]) -> str:
    """What the names of one group begin with; a sweep's are those of its attack and radii."""
    stems = [name.partition("_eps_")[0] for name in names]
    found = os.path.commonprefix(stems)
    if found not in stems:  # cut inside a number: chosen_0 of chosen_02 and chosen_04
        found = found.rpartition("_")[0] or found
    return found.rstrip("_")
