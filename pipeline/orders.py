"""Checks C2 to C9 of attacks.md 5.2: what attacks on one victim must say about each other.

Each yields a text when it fires.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from pipeline.evidence import TOLERANCE, Attack, Evidence, exceeds, points
from pipeline.metrics import wilson, worst

SLACK = 0.005  # C2 to C9: half a point that a stronger attack may be behind
NOISE = 0.02  # C2: what random points of the ball may cost
CONVERGED = 0.01  # C4: what five times the steps may still find
RESTARTS = 0.015  # C5: what more starts may still find
CHANCE = 0.05  # C6: what the largest ball may leave beyond guessing
BLACK_BOX = 0.01  # C7: share of images that only attacks without the victim's gradient fool

BLIND = {"square", "Square", "set", "noise"}  # attacks without the victim's gradients


def noise(e: Evidence) -> Iterator[str]:
    """Noise costs little, and no attack finds less than noise."""
    for noise in e.of("noise"):
        if exceeds(e.right, noise.right, NOISE):
            yield f"random noise costs {points(e.right, noise.right)}"
        for attack in e.attacks:
            same = attack.field("eps") == noise.field("eps") and attack.kind != "noise"
            if same and exceeds(attack.right, noise.right, SLACK):
                yield f"{attack.name} is {points(attack.right, noise.right)} weaker than noise"


def one_step(e: Evidence) -> Iterator[str]:
    """One step does not beat many."""
    for fgsm in e.of("fgsm", "FGSM"):
        for pgd in e.of("pgd", "bim", "PGD", "BIM", eps=fgsm.field("eps")):
            # a library's own default, which no entry states, is many
            if pgd.field("steps", 2) > 1 and exceeds(pgd.right, fgsm.right, SLACK):
                yield f"one step beats {pgd.name} by {points(pgd.right, fgsm.right)}"


def _same_but(e: Evidence, key: str) -> Iterator[tuple[Attack, Attack]]:
    """Pairs of attacks that differ in one setting only, the smaller value first."""
    for a, b in combinations([x for x in e.attacks if x.is_exact and x.field(key) is not None], 2):
        apart = {key, "step_size"} if key == "eps" else {key}  # a step may follow its radius
        others = [{k: v for k, v in x.spec["fields"].items() if k not in apart} for x in (a, b)]
        if a.kind == b.kind and others[0] == others[1] and a.field(key) != b.field(key):
            yield (a, b) if a.field(key) < b.field(key) else (b, a)


def steps(e: Evidence) -> Iterator[str]:
    """More steps find more, and five times as many find little more."""
    for few, many in _same_but(e, "steps"):
        if exceeds(many.right, few.right, SLACK):
            yield f"{many.name} is {points(many.right, few.right)} weaker than {few.name}"
        enough = few.field("steps") >= 100
        if enough and exceeds(few.right, many.right, CONVERGED):
            yield f"{few.name} has not converged: {many.name} finds {points(few.right, many.right)}"


def restarts(e: Evidence) -> Iterator[str]:
    """More starts find little more."""
    for one, several in _same_but(e, "restarts"):
        if exceeds(one.right, several.right, RESTARTS):
            yield f"{several.name} finds {points(one.right, several.right)} more than {one.name}"


def radii(e: Evidence) -> Iterator[str]:
    """A larger ball leaves less; none leaves all, the whole box next to nothing."""
    for small, large in _same_but(e, "eps"):
        if small.field("eps") == 0 and not np.array_equal(small.right, e.right):
            yield f"{small.name} with radius 0 changes verdicts"
        if exceeds(large.right, small.right, SLACK):
            yield f"{large.name} leaves {points(large.right, small.right)} more than {small.name}"
        if large.field("eps") >= 1:
            left = float(large.right.mean())
            if wilson(left, len(large.right))[0] > 1 / e.classes + CHANCE:
                yield f"{large.name}, the whole box, leaves {100 * left:.0f} %"


def black_box(e: Evidence) -> Iterator[str]:
    """Attacks that see no gradient find next to nothing that the others do not."""
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


def parts(e: Evidence) -> Iterator[str]:
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


def monotone(e: Evidence) -> Iterator[str]:
    """In a suite that leaves nobody comes back, and no attack answers better than no attack."""
    before = e.right
    for attack in e.everything():
        if not np.all(attack.right <= before + TOLERANCE):
            yield f"{attack.name} is right where the victim is wrong without it"
