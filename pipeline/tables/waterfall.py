"""One waterfall a claim: what is printed, what its own protocol gives, and what each step leaves.

Readable from the last row: grey printed, blue the first step, red what is lost, green what is won,
black the interval of what is left, the verdict in the title.
"""

import io
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.tables.chain import Claim

PRINTED, FIRST, LOST, WON = "0.6", "tab:blue", "tab:red", "tab:green"
SIZE = 15  # points, of what must be read from far


def draw(claims: list[Claim], verdicts: list[str]) -> bytes:
    """PNG of all claims, one below the other."""
    steps = [max(len(claim.steps), 1) + bool(claim.published) for claim in claims]
    size = (13, 0.62 * sum(steps) + 1.5 * len(claims))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(claims), squeeze=False, gridspec_kw={"height_ratios": steps})
    for panel, claim, verdict in zip(panels[:, 0], claims, verdicts, strict=True):
        _paint(panel, claim, verdict)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


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
        panel.barh(y, now - start, left=start, color=color)

        bounds = gain.spread()
        if bounds is not None:
            low, high = (100 * bound for bound in bounds)
            panel.plot([low, high], [y, y], color="black", linewidth=2)
        panel.plot(now, y, "|", color="black", markersize=SIZE)
        before = now

    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(names)), [textwrap.fill(n, 44) for n in names], fontsize=SIZE - 4)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=SIZE - 2)
    panel.set_xlabel("points gained (bar: change; line: 95 % interval)", fontsize=SIZE - 4)
    title = textwrap.fill(f"{claim.paper}: {claim.name}: {verdict}", 78)
    panel.set_title(title, fontsize=SIZE, loc="left", fontweight="bold")
    panel.grid(axis="x", alpha=0.3)
