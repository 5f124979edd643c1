"""Checks C10 to C22 of docs/flags.md: signs of masked gradients, broken attacks, weak evidence.

Each yields a text when it fires.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.core.intervals import Z95, wilson
from pipeline.core.metrics import worst
from pipeline.flags.evidence import SCORES, Attack, Evidence, exceeds, points
from pipeline.plan.params.checks import SCALINGS

MASKING = 0.08  # C10: accuracy under PGD may exceed the worst case by this much
INCOMPLETE = 0.003  # C10: and must exceed it by this much, or the worst case is none
SUCCESS = 0.99  # C11: of attacks that no ball bounds
FLIPS = 0.001  # C12: verdicts that may depend on the size of the batch
ZERO_GRADIENTS = 0.01  # C13: share of images without a gradient
SAME_SIGNS = 0.999  # C15: agreement of the gradients of cross-entropy and margin
RISES = 0.99  # C17: share of images whose loss an attack raises
SCALING = 0.01  # C20: what scaling the logits may hide from a whole suite
OTHERS = 0.05  # C21: share of other answers that may have been missed
HALF_WIDTH = 0.1  # C19: of the 95 % interval where it is widest, at 50 %
STEADY = 0.9  # C22: share of images whose finite difference is the slope, within FACTOR
FACTOR = 2

# parts and wholes of AutoAttack, ours and torchattacks'
CASCADE = {"apgd", "fab", "square", "autoattack", "APGD", "APGDT", "FAB", "Square", "AutoAttack"}
MEANS = ("mean_ce", "mean_prob")  # goals of attacks on all members of a random victim
LINF = {"fgsm", "bim", "mim", "pgd", "eot_pgd", "di2"}  # gradient attacks on cross-entropy


def gap(e: Evidence) -> Iterator[str]:
    """Cross-entropy PGD against the worst case at the radius of the core, or at its own."""
    # The radius of the core where there is one, else the smallest that PGD was run at
    balls = [a.ball for a in (e.left or e.of("pgd", "PGD")) if a.ball[0] == "linf" and a.ball[1]]
    same = [a for a in e.everything() if balls and a.ball == min(balls)]
    ce = [a for a in same if a in e.of("pgd", loss="ce") + e.of("PGD")]
    if not ce:
        return

    best = min(ce, key=lambda a: float(a.right.mean()))
    gap = float((best.right - worst([a.right for a in same])).mean())
    if wilson(gap, len(best.right))[0] > MASKING:
        yield f"cross-entropy PGD ({best.name}) overstates by {100 * gap:.0f} points"

    left = e.left
    strong = [a.right for a in same if a in left or a.kind in CASCADE]
    beyond = float((best.right - worst([best.right, *strong])).mean())
    # Where PGD leaves next to nothing there is nothing left to find.
    left_any = float(best.right.mean()) > INCOMPLETE
    if strong and left_any and wilson(beyond, len(best.right))[1] < INCOMPLETE:
        yield f"the worst case finds nothing that {best.name} does not"


def unbounded(e: Evidence) -> Iterator[str]:
    """Attacks that no ball bounds fool nearly everything, and move something."""
    if e.random:
        return
    for attack in (a for a in e.attacks if a.kind in ("cw_l2", "deepfool", "CW", "DeepFool")):
        left = float(attack.right.mean())
        if wilson(left, len(attack.right))[0] > 1 - SUCCESS:
            yield f"{attack.name} has not converged: it leaves {100 * left:.0f} %"

        # An image that is wrong when clean need not move.
        moved = attack.arrays["l2"][e.right > 0]
        if len(moved) and float(moved.max()) == 0:
            yield f"{attack.name} moved no image: it is inert here"


def repeats(e: Evidence) -> Iterator[str]:
    """Verdicts do not depend on the batch, and every record saw the same weights."""
    images = len(e.right)
    for about in e.metas:
        flips = int(about.get("flips", 0))
        if wilson(flips / images, images)[0] > FLIPS:
            yield f"{flips} of {images} clean verdicts change with the size of the batch"
        if about["weights"] != e.metas[0]["weights"]:
            yield f"suite {about['suite']} saw other weights than suite {e.metas[0]['suite']}"


def zero_gradients(e: Evidence) -> Iterator[str]:
    """Next to no image is without a gradient."""
    zero = float(e.clean["clean/zero_gradient"].mean())
    if wilson(zero, len(e.right))[0] > ZERO_GRADIENTS:
        yield f"{100 * zero:.0f} % of images have no cross-entropy gradient"


def unmoved(e: Evidence) -> Iterator[str]:
    """Attacks that return their last iterate must have moved every image they were asked about."""
    last = (a for a in e.of("pgd", "mim", "bim", "PGD", "BIM") if not a.field("any_iterate"))
    for attack in last:
        asked = attack.arrays["asked"] & (attack.right > 0)
        still = float(attack.arrays["unchanged"][asked].mean()) if asked.any() else 0.0
        if attack.field("eps") and wilson(still, int(asked.sum()))[0] > ZERO_GRADIENTS:
            yield f"{attack.name} left {100 * still:.0f} % of the images it met as they were"


def surrogate_loss(e: Evidence) -> Iterator[str]:
    """Cross-entropy and margin have different gradients."""
    agreement = e.clean["clean/agreement"][~e.clean["clean/zero_gradient"]]
    if e.classes > 2 and len(agreement) and float(agreement.mean()) > SAME_SIGNS:
        yield "cross-entropy and margin have the same gradient signs: one of them is masked"


def outputs(e: Evidence) -> Iterator[str]:
    """The victim gives finite scores, and no probabilities."""
    scores = {"no attack": [e.clean[f"clean/{part}"] for part in SCORES]}
    scores |= {a.name: [a.arrays[part] for part in SCORES] for a in e.everything()}
    for name, values in scores.items():
        if not np.isfinite(values).all():
            yield f"the victim's scores under {name} are no finite numbers"
    if e.metas[0].get("outputs") == "probs":
        yield "the victim gives probabilities, whose logarithm saturates: give logits instead"


def loss(e: Evidence) -> Iterator[str]:
    """An attack on cross-entropy raises it."""
    for attack in e.attacks:
        if not (_ascends(attack) and attack.field("eps") and attack.field("steps", 1)):
            continue

        # what was dropped, being better for a random victim, says nothing of the loss it reached
        dropped = (attack.arrays["linf"] == 0) & ~attack.arrays["unchanged"]
        asked = attack.arrays["asked"] & ~dropped
        rises = attack.arrays["loss"][asked] > e.clean["clean/loss"][asked]
        share = float(rises.mean()) if len(rises) else 1.0
        if wilson(share, len(rises))[1] < RISES:
            yield f"{attack.name} raises the loss on {100 * share:.0f} % of images only"


def _ascends(attack: Attack) -> bool:
    """Whether it climbs the victim's own cross-entropy."""
    kinds = LINF | {"PGD", "BIM"}
    return attack.is_exact and attack.kind in kinds and attack.field("loss", "ce") == "ce"


def side_effects(e: Evidence) -> Iterator[str]:
    """Attacks leave the victim as it was."""
    for about in e.metas:
        if not about.get("untouched", True):
            yield f"suite {about['suite']} changed weights, modes or generators"


def images(e: Evidence) -> Iterator[str]:
    """Every record is of the same images, each once, and there are enough of them to tell."""
    for about, ids in zip(e.metas, e.ids, strict=True):
        if len(np.unique(ids)) < len(ids):
            yield f"suite {about['suite']} counts an image more than once"
        if not np.array_equal(ids, e.ids[0]):
            yield f"suite {about['suite']} is of other images than suite {e.metas[0]['suite']}"

    # The widest interval, of an accuracy of 50 %: p (1 - p) is 1/4 there.
    half = Z95 * 0.5 / len(e.right) ** 0.5
    if half > HALF_WIDTH:
        yield f"{len(e.right)} images: an accuracy is known to ±{100 * half:.1f} points only"


def constant(e: Evidence) -> Iterator[str]:
    """The victim tells images apart: its answers are not all one class."""
    right, labels = e.right > 0, e.clean["labels"]
    # Of one class, or of too few images, other answers may just not have been met.
    if len(np.unique(labels)) < 2 or wilson(0.0, len(labels))[1] > OTHERS:
        return

    members = e.clean["clean/members"]
    answers = np.unique(labels[right])
    if (members == members[0]).all():
        yield f"every member gives one answer to all of {len(labels)} images"
    elif len(answers) == 1 and right[labels == answers[0]].all():
        yield f"the victim is right on all images of class {answers[0]} and on no other"


def scaling(e: Evidence) -> Iterator[str]:
    """Logits divided by 10 hide nothing from all climbers of cross-entropy together."""
    yield from _compare_scaled(e, cooled=True)


def heated(e: Evidence) -> Iterator[str]:
    """A note: logits times 10 make cross-entropy nearly the margin, which finds more."""
    for text in _compare_scaled(e, cooled=False):
        yield f"{text}: cross-entropy PGD overstates here, read the worst case"


def _compare_scaled(e: Evidence, cooled: bool) -> Iterator[str]:
    """What attacks on scaled logits find beyond all climbers of the same cross-entropy.

    Together, for a longer or luckier climb on the same logits may find as much; and those alone,
    for attacks on the margin are blind to no scale: C10 compares with them. Of a random victim the
    scaled model is the members' mean, and so must those be that it is compared with; and as it
    climbs to its last step, so must they: where the mean is fooled, many members are still right.
    """
    factors = {a: SCALINGS.get(a.spec["surrogate"], 1) for a in e.everything()}
    scaled = [a for a, factor in factors.items() if factor != 1 and (factor < 1) == cooled]
    balls = {a.ball for a in scaled}
    met = filter(_climbs_mean, e.everything()) if e.random else filter(_ascends, e.attacks)
    own = [a.right for a in met if a.ball in balls]
    if not own:
        return

    before = worst(own)
    after = worst([before, *(e.alone(a) for a in scaled)])
    if exceeds(before, after, SCALING):
        names = ", ".join(a.name for a in scaled)
        yield f"{names} find {points(before, after)} more than all climbs of its own loss"


def _climbs_mean(attack: Attack) -> bool:
    """Whether it climbs the cross-entropy of a random victim's members, and stops at no success."""
    if attack.field("goal") in MEANS:
        return True
    is_mean = attack.spec["surrogate"] == "averaged" and _ascends(attack)
    return is_mean and not attack.field("any_iterate")


def differences(e: Evidence) -> Iterator[str]:
    """The gradient is that of the values: differences agree with it where it says something."""
    ratios = e.slope_ratios[np.isfinite(e.slope_ratios)]
    share = float(((ratios > 1 / FACTOR) & (ratios < FACTOR)).mean()) if len(ratios) else 1.0
    if wilson(share, len(ratios))[1] < STEADY:
        left = len(e.slope_ratios) - len(ratios)
        beside = f" ({left} saturated ones left out)" if left else ""
        yield (
            f"on {100 * share:.0f} % of {len(ratios)} images only does the margin change as its "
            f"gradient says{beside}"
        )
