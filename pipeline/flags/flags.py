"""Red flags of gradient masking and broken attacks, from records alone: docs/flags.md.

Thresholds are compared with bounds of paired differences on the same images, so that a small
subset does not fire by noise. C1, C8, C9, C12, C16, C18 and C21 say that a number is worthless,
but C8 not of random victims, where lucky draws explain it. C7, C13 and C22 say that a worst case
may be far too high: such a row is not ranked. Nor is a net that collapsed (C21), whose row stands
in its table: one of ninety would keep the others from being seen.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.core.metrics import worst
from pipeline.errors import UserError
from pipeline.flags import consistency as orders
from pipeline.flags import masking as symptoms
from pipeline.flags.evidence import Attack, Evidence, by_images, exceeds
from pipeline.plan import Record
from pipeline.store.records import Arrays

DOUBTS = ("C7", "C13", "C22")  # of a worst case
UNRANKING = (*DOUBTS, "C21")
GAINED = 0.02  # what C13 alone needs to unrank
CLIMBING = symptoms.LINF | {"pgd_l1", "apgd"}  # on cross-entropy unless they say otherwise
# By queries, by differences of logits, or by these too
OTHERWISE = {"square", "fab", "autoattack", "Square", "FAB", "AutoAttack"}
UNFAIR = 1.5  # C23: points that a cut may hide of a row beyond what it hides of the reference
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
    "C22": symptoms.differences,
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


@dataclass(frozen=True)
class Judged:
    """What the records of one victim say, those of other images apart."""

    evidence: list[Evidence]
    flags: list[Flag]
    doubts: set[str]  # checks that take its rank


def judge(records: Iterable[Record], read: Callable[[Record], Arrays]) -> Judged:
    """Flags of a victim; raises UserError naming the records where one makes every number
    worthless."""
    groups = by_images(records)
    evidence = [Evidence([(read(r), list(r.attacks)) for r in group]) for group in groups]
    fired = [flags(some) for some in evidence]
    for group, some in zip(groups, fired, strict=True):
        for flag in (flag for flag in some if flag.fails and flag.check not in UNRANKING):
            where = group[0].path.parent
            raise UserError(f"{where}: {flag.check}: {flag.text}; see docs/flags.md")
    doubts = {check for pair in zip(evidence, fired, strict=True) for check in untrusted(*pair)}
    doubts |= {"C21"} & {flag.check for some in fired for flag in some}
    return Judged(evidence, [flag for some in fired for flag in some], doubts)


def hidden(own: tuple[float, int], reference: tuple[float, int]) -> Flag | None:
    """C23, of points that full budgets take from a row and its reference, each of so many images.

    None where the cut of the attacks is fair to both, or where they were measured on other images.
    """
    (points, images), (other, others) = own, reference
    if images != others or points - other <= UNFAIR:
        return None
    found = f"full budgets take {points:.1f} points from it and {other:.1f} from the reference"
    return Flag("C23", f"the scale's cut of the attacks flatters it: {found} ({images} images)")


def notes(evidence: Evidence) -> list[str]:
    """What is no fault of the victim and helps to read its row."""
    return list(symptoms.heated(evidence))


def untrusted(evidence: Evidence, fired: list[Flag]) -> list[str]:
    """The checks that make a worst case too doubtful to rank, C7, C13 and C22, or none.

    C22 does so beside the core: where the gradient is not that of the values, no attack of it has
    seen the victim. C13 alone does not where attacks that need no slope of cross-entropy (margins,
    other surrogates, transfer) find no more than 2 points beyond the core's: an undefended net that
    answers with certainty hides nothing that is left. Where there is no core, it does in a ball in
    which attacks that need such a slope are the only ones.
    """
    doubts = [check for check in DOUBTS if check in {flag.check for flag in fired}]
    if "C7" in doubts or ("C22" in doubts and evidence.core):
        return doubts

    if not evidence.core:
        return doubts if _climb_alone(evidence) else []
    before = worst([a.right for a in evidence.core])
    balls = {a.ball for a in evidence.core}  # a larger one is no evidence about these
    others = (a for a in evidence.everything() if a.ball in balls and _needs_no_slope(a))
    after = worst([before, *(a.right for a in others)])
    return doubts if exceeds(before, after, GAINED) else []


def _climb_alone(evidence: Evidence) -> bool:
    """Whether attacks on the victim's cross-entropy are the only ones in one of their balls."""
    attacks = evidence.everything()
    climbing = (a for a in attacks if a.kind in CLIMBING and not _needs_no_slope(a))
    return not {a.ball for a in climbing} <= {a.ball for a in attacks if _needs_no_slope(a)}


def _needs_no_slope(attack: Attack) -> bool:
    """Whether it climbs no cross-entropy of the victim itself, or not that alone."""
    other = not attack.is_exact or attack.kind in OTHERWISE
    return other or attack.field("loss", "ce") != "ce"
