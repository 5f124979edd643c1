"""Loss surfaces over two directions: directions in the images, numbers, and picture."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.ascent import gradient_in
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.tables.canvas import SMALL, Pictures, drawn
from pipeline.tables.labels import read

WHOLE, ALONE = "all members", "one network"
LEVELS, LEAST = 25, 1e-6  # of losses, which are drawn logarithmically
Line = tuple[str, str, float, float, float]
COLUMNS = ("row", "of", "along", "across", "loss")


def surface(
    label: str,
    half: int,
    length: float,
    losses: Callable[[float, float], tuple[Tensor, Tensor]],
    members: int,
) -> list[Line]:
    """Lines of COLUMNS: mean loss of the first `members` members and of all of them, at every
    point (along, across) of a grid of +-length."""
    lines = []
    steps = [length * step for step in offsets(half)]
    for along in steps:
        for across in steps:
            members_KB, whole_B = losses(along, across)
            whole = WHOLE if len(members_KB) > 1 else ALONE
            shown = members_KB[: members if len(members_KB) > 1 else 0]

            found = {f"member {i}": float(m.mean()) for i, m in enumerate(shown)}
            found[whole] = float(whole_B.mean())
            lines += [(label, of, along, across, loss) for of, loss in found.items()]
    return lines


def frame_of(surfaces: Iterable[list[Line]]) -> pd.DataFrame:
    """The numbers of all rows' surfaces."""
    return pd.DataFrame(chain.from_iterable(surfaces), columns=list(COLUMNS))


def draw_surfaces(frame: pd.DataFrame, title: str, names: tuple[str, str]) -> Pictures:
    """Pictures: a panel for each row and part, one logarithmic scale of losses for all."""
    panels = list(frame.groupby(["row", "of"], sort=False))
    columns = frame["of"].nunique() if frame["of"].nunique() > 1 else len(panels)
    lines = -(-len(panels) // columns)

    # A loss of exactly 0 has no logarithm; the last level lies above the largest loss.
    positive = frame["loss"].clip(lower=LEAST)
    levels = np.geomspace(positive.min(), positive.max() * (1 + LEAST), LEVELS)

    def paint(sheet: Figure) -> None:
        places = sheet.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for (name, own), panel in zip(panels, places.flat, strict=False):
            drawn_last = _paint(panel, own, levels)
            panel.set_title(f"{read(name[0])}: {name[1]}", fontsize=SMALL + 1)
        for panel in list(places.flat)[len(panels) :]:
            panel.set_axis_off()

        bar = sheet.colorbar(drawn_last, ax=places, format="%.3g", ticks=levels[::3])
        bar.set_label("cross-entropy", fontsize=SMALL + 1)
        bar.ax.tick_params(labelsize=SMALL)
        sheet.supxlabel(names[1], fontsize=SMALL + 1)
        sheet.supylabel(names[0], fontsize=SMALL + 1)

    return drawn((3.1 * columns + 1.2, 2.8 * lines + 1.0), title, paint)


def _paint(panel: Any, own: pd.DataFrame, levels: NDArray[np.float64]) -> Any:
    """Filled contours and their lines; `along` is up, `across` to the right."""
    loss = own.pivot(index="along", columns="across", values="loss").clip(lower=LEAST)
    grid = (loss.columns, loss.index, loss.to_numpy())
    norm = LogNorm(levels[0], levels[-1])
    filled = panel.contourf(*grid, levels=levels, norm=norm, cmap="viridis")
    # Every third level is labelled: all of them would hide the surface.
    lines = panel.contour(*grid, levels=levels[::3], colors="white", linewidths=0.6)
    panel.clabel(lines, fmt="%.3g", fontsize=SMALL - 2)
    panel.plot(0, 0, marker="+", color="red", markersize=8)
    panel.tick_params(labelsize=SMALL - 1)
    panel.locator_params(nbins=5)
    return filled


def offsets(half: int) -> list[float]:
    """2 half + 1 even steps from -1 to 1; the middle one is exactly 0."""
    if half < 1:
        raise UserError(f"params.yaml: figures: half: {half} is no grid; at least 1")
    return [step / half for step in range(-half, half + 1)]


def losses(victim: Combination, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each member, [members, B], and of the victim, [B].

    A random victim's is the expectation: the mean over the members it draws from.
    """
    members_KB = torch.stack([cross_entropy(z, labels) for z in victim.logits(images)])
    if victim.random:
        return members_KB, members_KB.mean(0)
    return members_KB, cross_entropy(victim(images), labels)


def directions(
    victim: Combination, images: Tensor, labels: Tensor, ids: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Per image, both of unit linf length [B, C, H, W]: the sign of the loss's gradient (the
    adversarial direction) and random signs (a Rademacher vector), the same for every victim."""
    with torch.enable_grad():
        leaves = images.clone().requires_grad_()
        _, whole_B = losses(victim, leaves, labels)
        steepest = gradient_in(leaves, whole_B).sign()
    draws = Draws(derive(seed, "plane"), ids)
    return steepest, draws.signs(*images.shape[1:]).to(images)
