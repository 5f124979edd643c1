"""A published gain, taken apart step by step, and what is left of it: the verdict rule.

Each step changes one thing and keeps the earlier ones. Declared before any number was seen: a
claim is tested once, at its last step; a step counts as tested while all before it still gain
(fixed sequence); over claims p-values are Holm's and intervals Bonferroni's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.intervals import FEWEST, LEVEL, Mean, crossed

DELTA = 0.01  # a difference within a point is none
PHI = 0.5  # of the first step's gain must be left, or it shrinks


@dataclass(frozen=True)
class Step:
    """One link: what it changes, in words, and the paired differences [seeds, images] of it."""

    changes: str
    differences: NDArray[np.float64] | None  # ours minus baseline; None where it `lacks` a side
    lacks: str = ""
    untrusted: str = ""  # flags that make a side's worst case worthless
    images: frozenset[Any] = frozenset()  # what tells them from others

    @property
    def gain(self) -> Mean | None:
        """The mean difference; None where a side is missing."""
        return None if self.differences is None else crossed(self.differences, added=2)


@dataclass(frozen=True)
class Claim:
    """A published gain and its steps; `departures`: stand-ins, cuts."""

    paper: str
    name: str
    published: str
    where: str
    steps: tuple[Step, ...]
    departures: tuple[str, ...] = ()

    @property
    def known(self) -> list[Step]:
        """The steps that both sides have records for."""
        return [step for step in self.steps if step.differences is not None]

    @property
    def p(self) -> float | None:
        """Two-sided, of the last known step; None without an interval."""
        gain = self.known[-1].gain if self.known else None
        above = gain.p_above() if gain else None
        return None if above is None else 2 * min(above, 1 - above)


def change(before: Step, after: Step) -> Mean | None:
    """What a step changes, paired on image and seed; None on other images or seeds."""
    a, b = before.differences, after.differences
    if a is None or b is None or a.shape != b.shape or before.images != after.images:
        return None
    return crossed(b - a, added=2)


def tested(claim: Claim) -> list[bool]:
    """Whether each step is tested: while all before it still gain."""
    is_tested, gains = [], True
    for step in claim.steps:
        is_tested.append(gains and step.gain is not None)
        bounds = step.gain.spread() if step.gain else None
        # Fixed sequence: after the first step without a gain nothing is tested any more.
        gains = gains and bounds is not None and bounds[0] > 0
    return is_tested


def holm(values: list[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979); None stays None and is no test."""
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        # Never below the one before: adjusted p-values keep their order.
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


def judge(claim: Claim, claims: int) -> str:
    """What is left of a gain after all steps, of a page with so many claims."""
    if not claim.known:
        return "not built"

    unfit = list(claim.departures)
    seeds = min(step.gain.seeds for step in claim.known if step.gain)
    if seeds < FEWEST:
        unfit.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    if unfit:
        return f"no verdict: {'; '.join(unfit)}"

    # A gap would have what follows compared with another step; an open end is only said.
    known, steps = len(claim.known), len(claim.steps)
    for number, step in enumerate(claim.steps[:known], start=1):
        if step.differences is None:
            return f"not built: step {number}"
    return rule(claim, claims) + (f" (to step {known} of {steps})" if known < steps else "")


def rule(claim: Claim, claims: int) -> str:
    """The verdict where nothing stands in, nothing is cut and there are seeds enough."""
    if flags := " ".join(dict.fromkeys(s.untrusted for s in claim.known if s.untrusted)):
        return f"not trusted: {flags}"

    first, last = claim.known[0].gain, claim.known[-1].gain
    start = first.spread() if first else None
    end = family(last, claims) if last else None
    if first is None or last is None or start is None or end is None:
        return "cannot tell"

    # Without a gain at the first step there is nothing to take apart.
    if start[0] <= 0:
        return "nothing to audit"
    if end[0] > 0:
        kept = last.value >= PHI * first.value
        return "survives" if kept else f"shrinks to {100 * last.value:.1f}"

    # The whole interval within a point of 0: shown to be nothing, not merely not shown.
    if end[0] >= -DELTA and end[1] <= DELTA:
        return "vanishes"
    return "reverses" if end[1] < 0 else "cannot tell"


def family(gain: Mean, claims: int) -> tuple[float, float] | None:
    """The interval that holds for all claims together (Bonferroni)."""
    return gain.spread(1 - (1 - LEVEL) / claims)
