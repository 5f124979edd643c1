"""Each member against its peers, all other members (AUTE, Appendix B): counts and margins."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.contracts.fields import Attack
from pipeline.core.ensemble import mean_log_prob
from pipeline.core.losses import margin
from pipeline.errors import UserError
from pipeline.evaluation.verdicts import BATCH
from pipeline.figures._exhibit import Loaded
from pipeline.tables.canvas import COLOURS, SMALL, Pictures, drawn
from pipeline.tables.labels import read

BOTH, MEMBER, PEERS, NONE = "both_right", "member_alone_right", "peers_alone_right", "none_right"
COLUMNS = ("row", "member", "images", "count", BOTH, MEMBER, PEERS, NONE)
MARGINS = ("member_margin", "peers_margin")


@dataclass(frozen=True, kw_only=True)
class Peers:
    """On clean images and on those of an attack on the whole ensemble: how many a member gets
    right and its peers, by the mean of their probabilities, do not, and the other way round; and
    the mean margin p_y - max_{k != y} p_k of both."""

    attack: Attack
    images: int

    reads_weights: ClassVar[bool] = True

    def numbers(self, shown: list[Loaded]) -> pd.DataFrame:
        """A line for each row, member and kind of images."""
        lines = []
        for item in shown:
            if len(item.victim.members) < 2:
                raise UserError(f"params.yaml: figures: {item.label} has one member and no peers")
            for name in ("clean", self.attack):
                images = item.images if name == "clean" else item.crafted(name)
                lines += self._compared(item, name, images)
        return pd.DataFrame(lines, columns=[*COLUMNS, *MARGINS])

    @torch.no_grad()
    def _compared(self, item: Loaded, name: str, images: Tensor) -> list[tuple[object, ...]]:
        logits_KBC = torch.cat([item.victim.logits(part) for part in torch.split(images, BATCH)], 1)
        lines = []
        for index, member in enumerate(logits_KBC):
            others = [i for i in range(len(logits_KBC)) if i != index]
            compared = compare(member, mean_log_prob(logits_KBC[others]), item.labels)
            lines.append((item.label, index, name, len(images), *compared))
        return lines

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: counts above, margins below, panels for clean and attacked images."""
        groups = list(dict.fromkeys(frame["images"]))

        def paint(sheet: Figure) -> None:
            panels = sheet.subplots(2, len(groups), sharex="col", sharey="row", squeeze=False)
            for column, name in enumerate(groups):
                own = frame[frame["images"] == name].reset_index(drop=True)
                shares = own[[MEMBER, PEERS]].div(own["count"], axis=0) * 100
                panels[0][column].set_title(f"{read(name)} images", fontsize=SMALL + 1)
                _bars(panels[0][column], shares, ["member right, peers wrong", "peers alone"])
                _bars(panels[1][column], own[list(MARGINS)], ["member", "peers"])

                names = [
                    f"{read(row)} {i}" for row, i in zip(own["row"], own["member"], strict=True)
                ]
                panels[1][column].set_xticks(range(len(own)), names, rotation=60, fontsize=SMALL)

            panels[0][0].set_ylabel("images, %")
            panels[1][0].set_ylabel("mean margin")

        return drawn((4.6 * len(groups), 5.6), title, paint)


def _bars(panel: Any, values: pd.DataFrame, names: list[str]) -> None:
    pairs = zip((-0.2, 0.2), values, names, COLOURS[:2], ("", "//"), strict=True)
    for shift, column, name, colour, hatch in pairs:
        places = [place + shift for place in range(len(values))]
        panel.bar(places, values[column], 0.4, label=name, color=colour, hatch=hatch)
    panel.legend(fontsize=SMALL - 1)
    panel.margins(y=0.3)
    panel.grid(axis="y", alpha=0.3)


def compare(member: Tensor, peers: Tensor, labels: Tensor) -> tuple[float, ...]:
    """Counts both, member alone, peers alone and neither right; mean margins of member and peers.

    member, peers: scores [B, classes].
    """
    ours, theirs = (scores.argmax(1) == labels for scores in (member, peers))
    counts = (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)
    margins = (-margin(scores.softmax(1), labels).mean() for scores in (member, peers))
    return (*(int(c.sum()) for c in counts), *(float(m) for m in margins))
