"""Red flags of gradient masking and broken attacks, from records alone (attacks.md 5.2).

Thresholds are compared with bounds of paired differences on the same images, so that a small
subset does not fire by noise. C1, C8, C9, C12, C16 and C18 say that a number is worthless.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.evidence import TOLERANCE, Attack, Evidence, exceeds, points
from pipeline.metrics import wilson, worst

FAILS = ("C1", "C8", "C9", "C12", "C16", "C18")
SLACK = 0.005  # C2 to C9: half a point that a stronger attack may be behind
NOISE = 0.02  # C2: what random points of the ball may cost
CONVERGED = 0.01  # C4: what five times the steps may still find
RESTARTS = 0.015  # C5: what more starts may still find
CHANCE = 0.05  # C6: what the largest ball may leave beyond guessing
BLACK_BOX = 0.01  # C7: share of images that only attacks without the victim's gradient fool
MASKING = 0.08  # C10: accuracy under PGD may exceed the worst case by this much
INCOMPLETE = 0.003  # C10: and must exceed it by this much, or the worst case is none
SUCCESS = 0.99  # C11: of attacks that no ball bounds
FLIPS = 0.001  # C12: verdicts that may depend on the size of the batch
ZERO_GRADIENTS = 0.01  # C13: share of images without a gradient
SAME_SIGNS = 0.999  # C15: agreement of the gradients of cross-entropy and margin
RISES = 0.99  # C17: share of images whose loss an attack raises
SCALING = 0.01  # C20: what scaling the logits may hide

BLIND = {"square", "Square", "set", "noise"}  # attacks without the victim's gradients
LINF = {"fgsm", "bim", "mim", "pgd", "eot_pgd", "di2"}  # gradient attacks on cross-entropy


@dataclass(frozen=True)
class Flag:
    """A check that fired, and why, in one line."""

    check: str
    text: str

    @property
    def fails(self) -> bool:
        """Whether the number beside it is worthless."""
        return self.check in FAILS


def flags(evidence: Evidence) -> list[Flag]:
    """All flags of one victim, in the order of their checks."""
    return [Flag(check, text) for check, run in CHECKS.items() for text in run(evidence)]


def _noise(e: Evidence) -> Iterator[str]:
    for noise in e.of("noise"):
        if exceeds(e.right, noise.right, NOISE):
            yield f"random noise costs {points(e.right, noise.right)}"
        for attack in e.attacks:
            same = attack.field("eps") == noise.field("eps") and attack.kind != "noise"
            if same and exceeds(attack.right, noise.right, SLACK):
                yield f"{attack.name} is {points(attack.right, noise.right)} weaker than noise"


def _one_step(e: Evidence) -> Iterator[str]:
    for fgsm in e.of("fgsm", "FGSM"):
        for pgd in e.of("pgd", "bim", "PGD", "BIM", eps=fgsm.field("eps")):
            if pgd.field("steps") > 1 and exceeds(pgd.right, fgsm.right, SLACK):
                yield f"one step beats {pgd.name} by {points(pgd.right, fgsm.right)}"


def _same_but(e: Evidence, key: str) -> Iterator[tuple[Attack, Attack]]:
    """Pairs of attacks that differ in one setting only, the smaller value first."""
    for a, b in combinations([x for x in e.attacks if x.is_exact and x.field(key) is not None], 2):
        apart = {key, "step_size"} if key == "eps" else {key}  # a step may follow its radius
        others = [{k: v for k, v in x.spec["fields"].items() if k not in apart} for x in (a, b)]
        if a.kind == b.kind and others[0] == others[1] and a.field(key) != b.field(key):
            yield (a, b) if a.field(key) < b.field(key) else (b, a)


def _steps(e: Evidence) -> Iterator[str]:
    for few, many in _same_but(e, "steps"):
        if exceeds(many.right, few.right, SLACK):
            yield f"{many.name} is {points(many.right, few.right)} weaker than {few.name}"
        enough = few.field("steps") >= 100
        if enough and exceeds(few.right, many.right, CONVERGED):
            yield f"{few.name} has not converged: {many.name} finds {points(few.right, many.right)}"


def _restarts(e: Evidence) -> Iterator[str]:
    for one, several in _same_but(e, "restarts"):
        if exceeds(one.right, several.right, RESTARTS):
            yield f"{several.name} finds {points(one.right, several.right)} more than {one.name}"


def _radii(e: Evidence) -> Iterator[str]:
    for small, large in _same_but(e, "eps"):
        if small.field("eps") == 0 and not np.array_equal(small.right, e.right):
            yield f"{small.name} with radius 0 changes verdicts"
        if exceeds(large.right, small.right, SLACK):
            yield f"{large.name} leaves {points(large.right, small.right)} more than {small.name}"
        if large.field("eps") >= 1:
            left = float(large.right.mean())
            if wilson(left, len(large.right))[0] > 1 / e.classes + CHANCE:
                yield f"{large.name}, the whole box, leaves {100 * left:.0f} %"


def _black_box(e: Evidence) -> Iterator[str]:
    for blind in e.everything():
        eps = blind.field("eps")
        if blind.kind not in BLIND or not eps:
            continue
        seeing = [a.right for a in e.everything() if a.kind not in BLIND and a.field("eps") == eps]
        if not seeing:
            continue
        only = np.maximum(worst([*seeing, e.right]) - blind.right, 0)
        share = float(only.mean())
        if wilson(share, len(only))[0] > BLACK_BOX:
            yield f"{blind.name} fools {100 * share:.1f} % of images that no gradient attack does"


def _parts(e: Evidence) -> Iterator[str]:
    """The whole of AutoAttack against its parts and against long PGD.

    Not of random victims: it ends where the members' mean is fooled, PGD goes on, and so leaves
    less in expectation.
    """
    if e.metas[0].get("random"):
        return
    names = {"apgd": "APGD", "fab": "FAB", "square": "Square"}
    for whole in e.of("autoattack"):
        same = {"eps": whole.field("eps")}
        budgets = [
            part
            for part in e.of(*names, **same)
            if part.field("steps", 0) <= whole.field("steps")
            and part.field("queries", 0) <= whole.field("queries")
            and part.field("targets", 0) <= whole.field("targets")
        ]
        longest = [p for p in e.of("pgd", **same) if p.field("steps") <= whole.field("steps")]
        for part in (*budgets, *longest):
            if exceeds(whole.right, part.right, SLACK):
                yield f"{whole.name} leaves {points(whole.right, part.right)} more than {part.name}"


def _monotone(e: Evidence) -> Iterator[str]:
    """In a suite that leaves nobody comes back, and no attack answers better than no attack."""
    before = e.right
    for attack in e.everything():
        if not np.all(attack.right <= before + TOLERANCE):
            yield f"{attack.name} is right where the victim is wrong without it"


def _gap(e: Evidence) -> Iterator[str]:
    """Cross-entropy PGD against the worst case at the radius of the core, or at its own."""
    radii = [a.field("eps") for a in (e.left or e.of("pgd", "PGD")) if a.field("eps")]
    same = [a for a in e.everything() if radii and a.field("eps") == min(radii)]
    ce = [a for a in same if a in e.of("pgd", loss="ce", norm="linf") + e.of("PGD")]
    if not ce:
        return
    best = min(ce, key=lambda a: float(a.right.mean()))
    gap = float((best.right - worst([a.right for a in same])).mean())
    if wilson(gap, len(best.right))[0] > MASKING:
        yield f"{100 * gap:.0f} points of accuracy under {best.name} are masked gradients"
    core = [a.right for a in e.left if a in same]
    found = float((best.right - worst([best.right, *core])).mean())
    if core and wilson(found, len(best.right))[1] < INCOMPLETE:
        yield f"the worst case finds nothing that {best.name} does not"


def _unbounded(e: Evidence) -> Iterator[str]:
    if e.metas[0].get("random"):
        return
    for attack in (a for a in e.attacks if a.kind in ("cw_l2", "deepfool", "CW", "DeepFool")):
        left = float(attack.right.mean())
        if wilson(left, len(attack.right))[0] > 1 - SUCCESS:
            yield f"{attack.name} has not converged: it leaves {100 * left:.0f} %"
        moved = attack.arrays["l2"][e.right > 0]
        if len(moved) and float(moved.max()) == 0:
            yield f"{attack.name} moved no image: it is inert here"


def _repeats(e: Evidence) -> Iterator[str]:
    images = len(e.right)
    for about in e.metas:
        flips = int(about.get("flips", 0))
        if wilson(flips / images, images)[0] > FLIPS:
            yield f"{flips} of {images} clean verdicts change with the size of the batch"
        if about["weights"] != e.metas[0]["weights"]:
            yield f"suite {about['suite']} saw other weights than suite {e.metas[0]['suite']}"


def _zero_gradients(e: Evidence) -> Iterator[str]:
    zero = float(e.clean["clean/zero_gradient"].mean())
    if wilson(zero, len(e.right))[0] > ZERO_GRADIENTS:
        yield f"{100 * zero:.0f} % of images have no cross-entropy gradient"


def _unmoved(e: Evidence) -> Iterator[str]:
    """Attacks that return their last iterate must have moved every image they were asked about."""
    for attack in e.of("pgd", "mim", "bim", "PGD", any_iterate=False) + e.of("mim", "bim"):
        asked = attack.arrays["asked"] & (attack.right > 0)
        still = float(attack.arrays["unchanged"][asked].mean()) if asked.any() else 0.0
        if attack.field("eps") and wilson(still, int(asked.sum()))[0] > ZERO_GRADIENTS:
            yield f"{attack.name} left {100 * still:.0f} % of the images it met as they were"


def _surrogate_loss(e: Evidence) -> Iterator[str]:
    agreement = e.clean["clean/agreement"][~e.clean["clean/zero_gradient"]]
    if e.classes > 2 and len(agreement) and float(agreement.mean()) > SAME_SIGNS:
        yield "cross-entropy and margin have the same gradient signs: one of them is masked"


def _outputs(e: Evidence) -> Iterator[str]:
    if e.metas[0].get("outputs") == "probs":
        yield "the victim gives probabilities, whose logarithm saturates: give logits instead"
    for attack in (a for a in e.attacks if a.kind == "CW" and a.field("as_published") is False):
        if e.metas[0].get("outputs") == "log_probs":
            yield f"{attack.name}: torchattacks' CW is inert on log-probabilities"


def _loss(e: Evidence) -> Iterator[str]:
    for attack in e.attacks:
        ascends = attack.kind in LINF | {"PGD", "BIM"} and attack.field("loss", "ce") == "ce"
        if not (ascends and attack.is_exact and attack.field("eps") and attack.field("steps", 1)):
            continue
        asked = attack.arrays["asked"]
        rises = attack.arrays["loss"][asked] > e.clean["clean/loss"][asked]
        share = float(rises.mean()) if len(rises) else 1.0
        if wilson(share, len(rises))[1] < RISES:
            yield f"{attack.name} raises the loss on {100 * share:.0f} % of images only"


def _side_effects(e: Evidence) -> Iterator[str]:
    for about in e.metas:
        if not about.get("untouched", True):
            yield f"suite {about['suite']} changed weights, modes or generators"


def _scaling(e: Evidence) -> Iterator[str]:
    own = [a for a in e.attacks if a.is_exact]
    for attack in e.attacks:
        if attack.spec["surrogate"] not in ("cooled", "heated"):
            continue
        for same in own:
            if same.spec["fields"] == attack.spec["fields"] and exceeds(
                same.right, worst([same.right, attack.right]), SCALING
            ):
                gain = points(same.right, worst([same.right, attack.right]))
                yield f"with {attack.spec['surrogate']} logits {same.name} finds {gain} more"


CHECKS: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "C2": _noise,
    "C3": _one_step,
    "C4": _steps,
    "C5": _restarts,
    "C6": _radii,
    "C7": _black_box,
    "C8": _parts,
    "C9": _monotone,
    "C10": _gap,
    "C11": _unbounded,
    "C12": _repeats,
    "C13": _zero_gradients,
    "C14": _unmoved,
    "C15": _surrogate_loss,
    "C16": _outputs,
    "C17": _loss,
    "C18": _side_effects,
    "C20": _scaling,
}
