"""Red flags of gradient masking and broken attacks, from records alone (attacks.md 5.2)."""

from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.metrics import Verdicts, wilson, worst
from pipeline.records import Arrays

MASKING = 0.08  # C10: accuracy under PGD may exceed the worst case by this much
ZERO_GRADIENTS = 0.01  # C13: share of images without a gradient
TOLERANCE = 1e-6  # C1: rounding of x + delta in float32


@dataclass(frozen=True)
class Flag:
    """A check that fired, and why, in one line."""

    check: str
    text: str


def check_budget(arrays: Arrays, attacks: tuple[tuple[str, Any], ...], where: str) -> None:
    """C1: no image may leave its ball or the box; raises UserError: its numbers are worthless."""
    for name, spec in attacks:
        fields = spec["fields"]
        key = {"linf": "linf", "l2": "l2"}[fields.get("norm", "linf")]
        largest = float(arrays[f"{name}/{key}"].max(initial=0.0))
        if not largest <= fields["eps"] + TOLERANCE:
            raise UserError(f"{where}: {name} left its ball ({largest} > {fields['eps']})")
        outside = float(arrays[f"{name}/outside"].max(initial=0.0))
        if not outside <= TOLERANCE:
            raise UserError(f"{where}: {name} left the range of pixels, [0, 1], by {outside}")


def flags(clean: Arrays, ce: dict[str, Verdicts], everything: list[Verdicts]) -> list[Flag]:
    """Flags of one victim: `ce` are its cross-entropy attacks, `everything` all its verdicts.

    Thresholds are compared with interval bounds, so small subsets do not fire by noise.
    """
    found = []
    images = len(clean["labels"])
    zero = float(clean["clean/zero_gradient"].mean())
    if wilson(zero, images)[0] > ZERO_GRADIENTS:
        found.append(Flag("C13", f"{100 * zero:.0f} % of images have no cross-entropy gradient"))
    if ce:
        name, best = min(ce.items(), key=lambda item: float(item[1].mean()))
        gap = float((best - worst(everything)).mean())
        if wilson(gap, images)[0] > MASKING:
            found.append(
                Flag("C10", f"{100 * gap:.0f} points of accuracy under {name} are masked gradients")
            )
    return found
