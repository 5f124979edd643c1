"""Red flags of gradient masking and broken attacks, from records alone: docs/flags.md.

Thresholds are compared with bounds of paired differences on the same images, so that a small
subset does not fire by noise. C1, C8, C9, C12, C16, C18 and C21 say that a number is worthless,
but C8 not of random victims, where lucky draws explain it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.flags import consistency as orders
from pipeline.flags import masking as symptoms
from pipeline.flags.evidence import Evidence

FAILS = ("C1", "C8", "C9", "C12", "C16", "C18", "C21")
CHECKS: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "C2": orders.noise,
    "C3": orders.one_step,
    "C4": orders.steps,
    "C5": orders.restarts,
    "C6": orders.radii,
    "C7": orders.black_box,
    "C8": orders.parts,
    "C9": orders.monotone,
    "C10": symptoms.gap,
    "C11": symptoms.unbounded,
    "C12": symptoms.repeats,
    "C13": symptoms.zero_gradients,
    "C14": symptoms.unmoved,
    "C15": symptoms.surrogate_loss,
    "C16": symptoms.outputs,
    "C17": symptoms.loss,
    "C18": symptoms.side_effects,
    "C19": symptoms.images,
    "C20": symptoms.scaling,
    "C21": symptoms.constant,
}


@dataclass(frozen=True)
class Flag:
    """A check that fired, and why, in one line; whether the victim is random."""

    check: str
    text: str
    random: bool = False

    @property
    def fails(self) -> bool:
        """Whether the number beside it is worthless."""
        return self.check in FAILS and not (self.random and self.check == "C8")


def flags(evidence: Evidence) -> list[Flag]:
    """All flags of one victim, in the order of their checks."""
    random = evidence.random
    return [Flag(check, text, random) for check, run in CHECKS.items() for text in run(evidence)]
