"""Decision regions in a plane through test images (SoE, Fig. 6), and who answers there."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.contracts.fields import Radius
from pipeline.core.ensemble import MaxConf
from pipeline.errors import UserError
from pipeline.figures._exhibit import Loaded
from pipeline.figures._surface import directions, offsets
from pipeline.tables.canvas import SMALL, Pictures, drawn
from pipeline.tables.labels import read

VICTIM, CHOSEN = "all members", "chosen"
BLACK = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """What each member and the victim predict at x + a s + b r, and which member is chosen.

    s is the sign of the gradient of the victim's loss (the adversarial direction, vertical), r a
    random sign vector (horizontal), a and b up to `radius` on both sides. The `shown` first test
    images that every victim gets right; under random inference all members must, and their
    most frequent prediction stands for the victim.
    """

    radius: Radius
    half: int
    shown: int
    seed: int

    reads_weights: ClassVar[bool] = True

    def numbers(self, shown: list[Loaded]) -> pd.DataFrame:
        """Predictions by row, image and point; -1 where the row has no such member or choice."""
        rows = self._rows(shown)
        frames = [self._regions(item, int(row)) for item in shown for row in rows]
        return pd.concat(frames).fillna(-1).astype(_kinds(frames))

    def _rows(self, shown: list[Loaded]) -> Tensor:
        right = torch.stack([item.evaluation.clean["right"] >= 1 for item in shown]).all(0)
        rows = right.nonzero()[: self.shown, 0]
        if len(rows) < self.shown:
            raise UserError(f"params.yaml: figures: shown: all rows are right on {len(rows)} "
                            f"images alone, not on {self.shown}")  # fmt: skip
        return rows

    def _regions(self, item: Loaded, row: int) -> pd.DataFrame:
        one = slice(row, row + 1)
        image, label, ids = item.images[one], item.labels[one], item.ids[one]
        steepest, random = directions(item.victim, image, label, ids, self.seed)

        steps = torch.tensor([self.radius * step for step in offsets(self.half)]).to(image)
        along, across = torch.meshgrid(steps, steps, indexing="ij")

        # The grid's points become the batch, one image repeated.
        spread = (-1, *[1] * (image.ndim - 1))
        points = image + along.reshape(spread) * steepest + across.reshape(spread) * random
        said = predictions(item, points)
        return pd.DataFrame(
            {
                "row": item.label,
                "image": int(ids),
                "label": int(label),
                "along": along.flatten().double().cpu().numpy(),
                "across": across.flatten().double().cpu().numpy(),
                **{name: values.cpu().numpy() for name, values in said.items()},
            }
        )

    def draw(self, frame: pd.DataFrame, title: str) -> Pictures:
        """Pictures: a line of panels a row and image; black is right, colours are wrong classes."""
        parts = list(frame.columns[5:])
        lines = list(frame.groupby(["row", "image"], sort=False))

        def paint(sheet: Figure) -> None:
            panels = sheet.subplots(len(lines), len(parts), squeeze=False)
            for (names, own), panel_row in zip(lines, panels, strict=True):
                for part, panel in zip(parts, panel_row, strict=True):
                    # -1 throughout: this row has no such member.
                    if own[part].min() < 0:
                        panel.set_axis_off()
                        continue
                    _paint(panel, own, part)
                    panel.set_title(part, fontsize=SMALL)
                    if part == CHOSEN:
                        _name_members(panel, own[part])
                panel_row[0].set_ylabel(f"{read(names[0])}\nimage {names[1]}", fontsize=SMALL)

            sheet.supxlabel(
                "right: along random signs; up: along the sign of the loss's gradient\n"
                "black: predicted right; colours: wrong classes; under `chosen`, members",
                fontsize=SMALL,
            )

        return drawn((1.9 * len(parts) + 0.4, 1.9 * len(lines) + 0.9), title, paint)


def _kinds(frames: list[pd.DataFrame]) -> dict[str, type]:
    """Predictions are whole numbers, also where some frame has none."""
    return {name: int for frame in frames for name in frame.columns[5:]}


@torch.no_grad()
def predictions(item: Loaded, points: Tensor) -> dict[str, Tensor]:
    """Classes [B] that each member and the victim predict; the chosen member where one is."""
    victim = item.victim
    said_KB = victim.logits(points).argmax(-1)
    whole = said_KB.mode(0).values if victim.random else victim(points).argmax(-1)
    found = {f"member {i}": said for i, said in enumerate(said_KB)} if len(said_KB) > 1 else {}
    found[VICTIM] = whole
    if isinstance(victim, MaxConf):
        found[CHOSEN] = victim.answers(points)[1].argmax(0)
    return found


def _colours() -> NDArray[np.float64]:
    """[20, 3]."""
    return np.asarray(colormaps["tab20"](range(20)))[:, :3]


def _name_members(panel: Any, chosen: "pd.Series[int]") -> None:
    patches = [Patch(color=_colours()[i], label=str(i)) for i in sorted(chosen.unique())]
    panel.legend(handles=patches, fontsize=SMALL - 2, loc="lower right", handlelength=1)


def _paint(panel: Any, own: pd.DataFrame, part: str) -> None:
    grid = own.pivot(index="along", columns="across", values=part)
    palette = _colours()
    colours = np.ones((*grid.shape, 4))
    colours[..., :3] = palette[grid.to_numpy() % len(palette)]
    if part != CHOSEN:
        colours[grid.to_numpy() == own["label"].iloc[0]] = BLACK

    limit = float(grid.columns.max())
    panel.imshow(colours, origin="lower", extent=(-limit, limit, -limit, limit))
    panel.plot(0, 0, marker="+", color="white", markersize=7)
    panel.tick_params(labelsize=SMALL - 2)
    panel.locator_params(nbins=4)
