"""Checks C2 to C9 of docs/flags.md: what attacks on one victim must say about each other.

Each yields a text when it fires.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from pipeline.core.intervals import wilson
from pipeline.core.metrics import worst
from pipeline.flags.evidence import TOLERANCE, Attack, Evidence, exceeds, points
from pipeline.plan.passes import as_ours

SLACK = 0.005  # C2 to C9: half a point that a stronger attack may be behind
NOISE, OF_ATTACKS = 0.02, 0.1  # C2: what random points may cost, and what part of what attacks do
CONVERGED = 0.01  # C4: what five times the steps may still find
RESTARTS = 0.015  # C5: what more starts may still find
LARGE, LEFT = 64 / 255, 0.05  # C6: a radius that may leave this much
BLACK_BOX = 0.01  # C7: share of images that only attacks without the victim's gradient fool

# C8: what AutoAttack must beat
PARTS = ("apgd", "fab", "square", "pgd", "APGD", "APGDT", "FAB", "Square", "PGD")

APART = {
    "eps": {"eps", "step_size", "alpha"},
    "restarts": {"restarts", "any_iterate"},
}  # may go along
BLIND = {"square", "Square", "set", "noise"}  # attacks without the victim's gradients
MIXED = {"autoattack", "AutoAttack"}  # of gradients, and of Square beside them


def noise(e: Evidence) -> Iterator[str]:
    """Noise costs little beside attacks, and no attack finds less than noise.

    In a ball of few pixels random points are not harmless: there attacks cost the more.
    """
    for noise in e.of("noise"):
        cost = float((e.right - worst([a.right for a in e.attacks if a.ball == noise.ball])).mean())
        if exceeds(e.right, noise.right, max(NOISE, OF_ATTACKS * cost)):
            yield f"random noise costs {points(e.right, noise.right)}"

        for attack in e.attacks:
            same = attack.ball == noise.ball and attack.kind != "noise"
            if same and exceeds(attack.right, noise.right, SLACK):
                yield f"{attack.name} is {points(attack.right, noise.right)} weaker than noise"


def one_step(e: Evidence) -> Iterator[str]:
    """One step does not beat many."""
    for fgsm in e.of("fgsm", "FGSM"):
        for pgd in (a for a in e.of("pgd", "bim", "PGD", "BIM") if a.ball == fgsm.ball):
            # a library's own default, which no entry states, is many
            if pgd.field("steps", 2) > 1 and exceeds(pgd.right, fgsm.right, SLACK):
                yield f"one step beats {pgd.name} by {points(pgd.right, fgsm.right)}"


def _pair_alike(e: Evidence, key: str) -> Iterator[tuple[Attack, Attack]]:
    """Pairs of attacks that differ in one setting only, the smaller value first."""
    apart = APART.get(key, {key})
    for a, b in combinations([x for x in e.attacks if x.is_exact and x.field(key) is not None], 2):
        others = [{k: v for k, v in x.settings.items() if k not in apart} for x in (a, b)]
        alike = a.kind == b.kind and others[0] == others[1] and a.field(key) != b.field(key)
        # a random victim itself is not what its members' mean is
        if alike and not (e.random and a.spec["surrogate"] != b.spec["surrogate"]):
            yield (a, b) if a.field(key) < b.field(key) else (b, a)


def steps(e: Evidence) -> Iterator[str]:
    """More steps find more, and five times as many find little more."""
    for few, many in _pair_alike(e, "steps"):
        if exceeds(many.right, few.right, SLACK):
            yield f"{many.name} is {points(many.right, few.right)} weaker than {few.name}"
        enough = few.field("steps") >= 100 and many.field("steps") >= 5 * few.field("steps")
        if enough and exceeds(few.right, many.right, CONVERGED):
            yield f"{few.name} has not converged: {many.name} finds {points(few.right, many.right)}"


def restarts(e: Evidence) -> Iterator[str]:
    """More starts find little more."""
    for one, several in _pair_alike(e, "restarts"):
        if exceeds(one.right, several.right, RESTARTS):
            yield f"{several.name} finds {points(one.right, several.right)} more than {one.name}"


def radii(e: Evidence) -> Iterator[str]:
    """A larger ball leaves less; none leaves all, 64/255 next to nothing, the box only guesses."""
    pairs = list(_pair_alike(e, "eps"))
    for small, large in pairs:
        if exceeds(large.right, small.right, SLACK):
            yield f"{large.name} leaves {points(large.right, small.right)} more than {small.name}"

    for attack in dict.fromkeys(attack for pair in pairs for attack in pair):
        (norm, eps), left = attack.ball, float(attack.right.mean())
        # The lower end of the interval: a small subset must not fire by chance.
        least = wilson(left, len(attack.right))[0]
        if eps == 0 and not np.array_equal(attack.right, e.right):
            yield f"{attack.name} with radius 0 changes verdicts"
        if norm == "linf" and abs(eps - LARGE) < TOLERANCE and least > LEFT:
            yield f"{attack.name}, a radius that nothing survives, leaves {100 * left:.0f} %"
        if norm == "linf" and eps >= 1 and least > 1 / e.classes:
            yield f"{attack.name}, the whole box, leaves {100 * left:.0f} %"


def black_box(e: Evidence) -> Iterator[str]:
    """Attacks that see no gradient find next to nothing that the others do not."""
    for blind in e.everything():
        if blind.kind not in BLIND or not blind.field("eps"):
            continue

        met = (a for a in e.everything() if _sees(a) and a.ball == blind.ball)
        # By themselves: a suite that stops when fooled asks no later attack about what it fooled.
        seeing = [e.alone(a) for a in met]
        if not seeing:
            continue

        # Right when clean and under every attack that sees the gradient, wrong under the blind one.
        only = np.maximum(worst([*seeing, e.right]) - e.alone(blind), 0)
        share = float(only.mean())
        if wilson(share, len(only))[0] > BLACK_BOX:
            yield f"{blind.name} fools {100 * share:.1f} % of images that no gradient attack does"


def _sees(attack: Attack) -> bool:
    """Whether it goes by the victim's gradient, and by nothing else: AutoAttack's own Square would
    hide what Square alone finds."""
    if attack.kind in MIXED:
        return bool(attack.field("version") == "rand")  # the one version without Square
    return attack.kind not in BLIND


def parts(e: Evidence) -> Iterator[str]:
    """The whole of AutoAttack against its parts and against PGD of no more steps.

    Of random victims it is only shown: AutoAttack ends where one draw, or the mean, is fooled.
    """
    why = ": it stops at one lucky draw, or at the members' mean" if e.random else ""
    for whole in e.of("autoattack", "AutoAttack"):
        for part in (a for a in e.of(*PARTS) if a.ball == whole.ball):
            cheaper = all(
                p <= w for p, w in zip(_count_budget(part), _count_budget(whole), strict=True)
            )
            if cheaper and exceeds(whole.right, part.right, SLACK):
                more = points(whole.right, part.right)
                yield f"{whole.name} leaves {more} more than {part.name}{why}"


def _count_budget(attack: Attack) -> list[int]:
    """Steps, targets and queries, as far as the attack knows them."""
    budget = as_ours(attack.spec["fields"])
    return [budget.get(name, 0) for name in ("steps", "targets", "queries")]


def monotone(e: Evidence) -> Iterator[str]:
    """Where a suite stops when fooled no image comes back; attacks leave no more than no attack."""
    for suite in [*([attack] for attack in e.attacks), *e.cascades]:
        before, last = e.right, "no attack"
        for attack in suite:
            if not np.all(attack.right <= before + TOLERANCE):
                yield f"{attack.name} is right where the victim is wrong under {last}"
            if not e.random:  # all of whose images meet every attack
                before, last = attack.right, attack.name
