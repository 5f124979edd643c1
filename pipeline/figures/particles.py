"""Particles of SVGD against runs of PGD (AT-AKA, Table 1): how far apart, and how strong."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.contracts.fields import Attack
from pipeline.core.draws import Draws, derive
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.figures._exhibit import Loaded
from pipeline.plan.params import values
from pipeline.tables.canvas import COLOURS, SMALL, Pictures, drawn
from pipeline.tables.labels import read
from pipeline.tables.reported import rows_of

FARTHEST = 2.0  # radii between two points of one linf ball
OURS, THEIRS = COLOURS[0], COLOURS[4]
PIXEL = 255  # the largest unit in which a printed distance can be meant
MEASURES = {"distance": "dist", "mean_ce": "Avg(CE)", "std_ce": "Std(CE)", "max_ce": "Max(CE)"}


@dataclass(frozen=True, kw_only=True)
class Particles:
    """For each of several SVGD attacks, whose kernel `none` is independent runs of PGD: the mean
    linf distance of two particles of one image, in radii, and the mean, standard deviation and
    maximum of their cross-entropy; all averaged over the first `images` test images.

    Beside them the paper's (of one image), whose distances no two points of its ball can have.
    All attacks start from the same points.
    """

    attacks: list[Attack]
    images: int
    reported: str
    printed: int  # number of the table

    reads_weights: ClassVar[bool] = True

    def numbers(self, shown: list[Loaded]) -> pd.DataFrame:
        """A line for each row and attack; rank 1 has the largest distance."""
        lines = [
            {"row": item.label, "attack": name, **self._measured(item, name)}
            for item in shown
            for name in self.attacks
        ]
        frame = pd.DataFrame(lines)

        ranks = frame.groupby("row")["distance"].rank(ascending=False)
        frame.insert(2, "rank", ranks.astype(int))
        return frame.merge(self._published(), on="attack", how="left")

    def _measured(self, item: Loaded, name: str) -> dict[str, Any]:
        attack, model = item.attack(name)
        if not hasattr(attack, "climb"):
            raise UserError(f"params.yaml: figures: attacks: {name} has no particles; take svgd")

        draws = Draws(derive(0, "particles"), item.ids)
        points = attack.climb(model, item.images, item.labels, draws)
        losses_KB = losses_of(model, points, item.labels)
        return {
            "distance": mean_distance(points) / attack.eps,
            "mean_ce": float(losses_KB.mean()),
            "std_ce": float(losses_KB.std(0).mean()),
            "max_ce": float(losses_KB.amax(0).mean()),
        }

    def _published(self) -> pd.DataFrame:
        """The paper's numbers by attack, its distances in radii, and whether they can be."""
        rows = rows_of(self.reported)
        rows = rows[(rows["table"] == str(self.printed)) & (rows["attack"] != "")]
        lines = []
        for attack, own in rows.groupby("attack", sort=False):
            printed = {
                line["column"]: float(values.fraction(line["value"], self.reported))
                for line in own.to_dict("records")
            }
            if not set(MEASURES.values()) <= set(printed):
                continue  # of another kind

            eps = float(values.fraction(own["eps"].iloc[0], self.reported))
            found = {f"published_{ours}": printed[theirs] for ours, theirs in MEASURES.items()}
            found["published_distance"] /= PIXEL * eps
            possible = found["published_distance"] <= FARTHEST
            lines.append({"attack": attack, **found, "published_is_possible": possible})

        if not lines:
            raise UserError(
                f"params.yaml: figures: printed: table {self.printed} of "
                f"data/reported/{self.reported}.csv has no {', '.join(MEASURES.values())}"
            )

        frame = pd.DataFrame(lines)
        ranks = frame["published_distance"].rank(ascending=False).astype(int)
        frame.insert(1, "published_rank", ranks)
        return frame.astype({"published_rank": "Int64", "published_is_possible": "boolean"})

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: distances with the largest possible one, and losses."""

        def paint(sheet: Figure) -> None:
            distances, losses = sheet.subplots(1, 2)
            places = range(len(frame))
            pairs = zip(frame["row"], frame["attack"], strict=True)
            several = frame["row"].nunique() > 1
            names = [f"{read(a)}\n{read(row)}" if several else read(a) for row, a in pairs]
            distances.bar(
                [p - 0.2 for p in places], frame["distance"], 0.4, label="ours", color=OURS
            )
            distances.bar(
                [p + 0.2 for p in places],
                frame["published_distance"].fillna(0),
                0.4,
                label="published (if in pixels of 255)",
                hatch="//",
                color=THEIRS,
            )

            distances.axhline(FARTHEST, color="black", linestyle=":", label="largest in a ball")
            distances.set_ylabel("mean linf distance of two particles / eps")

            losses.errorbar(
                places,
                frame["mean_ce"],
                frame["std_ce"],
                fmt="o",
                capsize=4,
                color=OURS,
                label="mean, std",
            )
            losses.plot(places, frame["max_ce"], "^", color=THEIRS, label="maximum")
            losses.set_ylabel("cross-entropy, ours")

            for panel in (distances, losses):
                panel.set_xticks(places, names, fontsize=SMALL)
                panel.grid(axis="y", alpha=0.3)
                panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)

        return drawn((9, 4), title, paint)


def mean_distance(points: Tensor) -> float:
    """Mean linf distance of two particles of one image; points [particles, B, C, H, W]."""
    pairs = [(a - b).abs().amax(1) for a, b in combinations(points.flatten(2), 2)]
    return float(torch.stack(pairs).mean())


@torch.no_grad()
def losses_of(model: Any, points: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every particle, [particles, B]."""
    return torch.stack([cross_entropy(model(x), labels) for x in points])
