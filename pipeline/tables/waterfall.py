"""One waterfall a claim: what is printed, what its own protocol gives, and what each step leaves.

Readable from the last row: grey printed, blue the first step, red and striped what is lost, green
and dotted what is won, black the interval of what is left, the verdict in the title.
"""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.tables.canvas import COLOURS, Pictures, drawn
from pipeline.tables.chain import Claim

PRINTED, FIRST, LOST, WON = "0.6", *COLOURS[:3]
LOOKS = {PRINTED: "", FIRST: "", LOST: "//", WON: ".."}  # told apart without colour, too
SIZE = 15  # points, of what must be read from far


def draw(claims: list[Claim], verdicts: list[str]) -> Pictures:
    """All claims, one below the other."""
    steps = [max(len(claim.steps), 1) + bool(claim.published) for claim in claims]
    size = (13, 0.75 * sum(steps) + 1.5 * len(claims))

    def paint(sheet: Figure) -> None:
        panels = sheet.subplots(len(claims), squeeze=False, gridspec_kw={"height_ratios": steps})
        for panel, claim, verdict in zip(panels[:, 0], claims, verdicts, strict=True):
            _paint(panel, claim, verdict)

    return drawn(size, "What the published gains are made of", paint)


def _paint(panel: Axes, claim: Claim, verdict: str) -> None:
    names: list[str] = []
    if claim.published:
        panel.barh(0, float(claim.published), color=PRINTED)
        names.append(f"printed ({claim.where})")

    before: float | None = None
    for step in claim.steps:
        y, gain = len(names), step.gain
        names.append(step.changes)
        if gain is None:
            panel.text(0, y, f" {step.lacks}", va="center", fontsize=SIZE - 4, style="italic")
            continue

        now = 100 * gain.value
        start = 0.0 if before is None else before
        color = FIRST if before is None else WON if now > start else LOST
        panel.barh(y, now - start, left=start, color=color, hatch=LOOKS[color], edgecolor="white")

        bounds = gain.spread()
        if bounds is not None:
            low, high = (100 * bound for bound in bounds)
            panel.plot([low, high], [y, y], color="black", linewidth=2)
        panel.plot(now, y, "|", color="black", markersize=SIZE)
        before = now

    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(names)), [textwrap.fill(n, 44) for n in names], fontsize=SIZE - 4)
    panel.set_ylim(len(names) - 0.5, -0.5)  # from the top; a last row without a bar has room
    panel.tick_params(axis="x", labelsize=SIZE - 2)
    panel.set_xlabel("points gained (bar: change; line: 95 % interval)", fontsize=SIZE - 4)
    title = textwrap.fill(f"{claim.paper}: {claim.name}: {verdict}", 72)
    panel.set_title(title, fontsize=SIZE, loc="left", fontweight="bold")
    panel.grid(axis="x", alpha=0.3)
