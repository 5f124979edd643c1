"""Planted faults raise their red flag, and a plain adversarially trained net raises none."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from victims import EPS, digits, trained

from pipeline.core.ensemble import Combination, MeanProb, RandomOne, Scaled, Single
from pipeline.errors import UserError
from pipeline.evaluation.verdicts import Evaluation
from pipeline.flags import masking as symptoms
from pipeline.flags.evidence import Evidence, bound, check_budget, exceeds
from pipeline.flags.flags import flags, untrusted
from pipeline.loading.images import Split
from pipeline.store.records import Arrays

IMAGES = 400
PGD = {"norm": "linf", "eps": EPS, "step_size": EPS / 5, "steps": 10, "restarts": 1}
PGD |= {"start": "uniform", "loss": "ce", "any_iterate": False}
APGD = {"norm": "linf", "eps": EPS, "steps": 10, "restarts": 1, "loss": "dlr", "targets": 0}
APGD |= {"rho": 0.75, "eot": 1}


def spec(component: str, surrogate: str = "averaged", **fields: Any) -> dict[str, Any]:
    return {"component": component, "fields": fields, "surrogate": surrogate}


SUITE = {
    "fgsm": spec("fgsm", eps=EPS),
    "noise": spec("noise", norm="linf", eps=EPS, tries=5),
    "mim": spec("mim", eps=EPS, step_size=EPS / 5, steps=10, decay=1.0),
    "pgd10": spec("pgd", **PGD),
    "pgd30": spec("pgd", **{**PGD, "steps": 30}),
    "pgd30_3": spec("pgd", **{**PGD, "steps": 30, "restarts": 3}),
    "pgd10_cooled": spec("pgd", "cooled", **PGD),
    "pgd10_heated": spec("pgd", "heated", **PGD),
    "pgd10_wide": spec("pgd", **{**PGD, "eps": 0.6, "step_size": 0.12}),
    "pgd10_whole": spec("pgd", **{**PGD, "eps": 1.0, "step_size": 0.2}),
}
CORE = {
    "apgd_dlr": spec("apgd", "mean_logit", **APGD),
    "margin": spec("pgd", "normalised", **{**PGD, "loss": "margin", "steps": 20}),
    "square": spec("square", eps=EPS, queries=150, restarts=1, p_init=0.8),
}


def split() -> Split:
    images, labels = digits()
    whole = (images[-IMAGES:] * 255).to(torch.uint8)
    return Split(whole, labels[-IMAGES:], [str(i) for i in range(10)], [0.3], [0.4])


def record(victim: Combination, suite: dict[str, Any], leave: bool = False) -> Arrays:
    """A record's arrays as the command writes them; the suite that leaves is the core."""
    found = Evaluation(victim, split(), list(range(IMAGES)))
    arrays: Arrays = {"labels": found.labels.numpy(), "ids": found.ids.numpy()}
    arrays |= {f"clean/{k}": v.numpy() for k, v in found.clean.items()}
    arrays |= {f"clean/{k}": v.numpy() for k, v in found.gradients(EPS).items()}
    for name, asked in suite.items():
        verdicts = found.attack(name, asked, 0)
        arrays |= {f"{name}/{k}": v for k, v in verdicts.items()}
        if leave and not victim.random:
            found.standing &= torch.from_numpy(verdicts["right"]) > 0
    said = {"spec": {"leave": leave}, "flips": found.flips(), "outputs": found.outputs()}
    said |= {
        "untouched": True,
        "random": victim.random,
        "weights": {},
        "suite": "core" if leave else "suite",
    }
    arrays["meta"] = np.array(json.dumps(said))
    return arrays


def evidence(victim: Combination, suite: dict[str, Any] | None = None, core: bool = True):
    victim = victim.eval().requires_grad_(False)
    used = SUITE if suite is None else suite
    records = [(record(victim, used), list(used.items()))]
    if core:
        records.append((record(victim, CORE, leave=True), list(CORE.items())))
    for arrays, attacks in records:
        check_budget(arrays, tuple(attacks), "record")
    return Evidence(records)


@cache
def honest() -> Evidence:
    return evidence(Single([trained(EPS)]))


def fired(found: Evidence) -> set[str]:
    return {flag.check for flag in flags(found)}


def test_an_adversarially_trained_net_raises_no_flag() -> None:
    assert flags(honest()) == []
    assert 0.2 < honest().attacks[3].right.mean() < 0.9


def test_an_ensemble_of_honest_nets_raises_no_flag() -> None:
    assert flags(evidence(MeanProb([trained(EPS), trained(0.1)]))) == []


class Killed(nn.Module):
    """A net behind an input that lets no gradient through: rounded, or cut off."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.net, self.steps = trained(EPS), steps

    def forward(self, images: Tensor) -> Tensor:
        if self.steps is None:
            return self.net(images.detach() + 0 * images)
        flat = images + ((images * self.steps).round() / self.steps - images).detach() * 1
        return self.net((flat * self.steps).round() / self.steps + 0 * images)


@pytest.mark.parametrize("steps", [None, 8])
def test_masked_and_quantised_gradients_are_seen_and_not_ranked(steps: int | None) -> None:
    """Nothing moves, half the attacks return clean images, and a blind search finds more."""
    seen = evidence(Single([Killed(steps)]))
    assert {"C7", "C13", "C14", "C17", "C22"} <= fired(seen)
    assert untrusted(seen, flags(seen)) == ["C7", "C13", "C22"]


class Borrowed(nn.Module):
    """The values of one net with the gradient of another, as a wrong `detach` gives it."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.net, self.other = trained(EPS), other

    def forward(self, images: Tensor) -> Tensor:
        lent = self.other(images)
        return lent + (self.net(images) - lent).detach()


def test_a_gradient_of_another_net_is_seen_by_a_finite_difference() -> None:
    found = evidence(Single([Borrowed(trained(0.0))]), {"pgd10": SUITE["pgd10"]}, core=False)
    assert "C22" in fired(found)
    own = evidence(Single([Borrowed(trained(EPS))]), {"pgd10": SUITE["pgd10"]}, core=False)
    assert "C22" not in fired(own)


def test_an_undefended_net_that_answers_with_certainty_keeps_its_rank() -> None:
    """Its cross-entropy has no gradient, the margin finds what there is to find."""
    found = evidence(Single([Scaled(trained(0.0), 100)]))
    assert "C13" in fired(found) and untrusted(found, flags(found)) == []


def test_an_overconfident_net_is_seen() -> None:
    found = fired(evidence(Single([Scaled(trained(EPS), 100)])))
    assert {"C10", "C13", "C20"} <= found


class Moody(nn.Module):
    """A net whose answers change from call to call, without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.generator = trained(EPS), torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images + 0.3 * torch.randn(images.shape, generator=self.generator))


def test_hidden_randomness_is_seen_and_fails_the_build() -> None:
    found = [f for f in flags(evidence(Single([Moody()]), core=False)) if f.check == "C12"]
    assert found and found[0].fails


def test_a_declared_random_victim_is_judged_in_expectation() -> None:
    victim = RandomOne([trained(EPS), trained(0.1)])
    assert "C12" not in fired(evidence(victim))


def test_probabilities_as_outputs_are_seen() -> None:
    class Probable(Single):
        def scores(self, logits_KBC: Tensor) -> Tensor:
            return super().scores(logits_KBC).softmax(1)

    assert "C16" in fired(evidence(Probable([trained(EPS)]), {"pgd10": SUITE["pgd10"]}, False))


def test_a_loss_whose_rival_is_a_masked_zero_is_seen() -> None:
    """On log p the faulty margin is -log p_y, so its signs are those of cross-entropy (C15)."""
    found = honest()
    agreement = float(found.clean["clean/agreement"].mean())
    assert 0.5 < agreement < 0.98
    arrays = {**found.clean, "clean/agreement": np.ones(IMAGES, np.float32)}
    assert list(symptoms.surrogate_loss(changed(found, clean=arrays)))


# ---- single checks, on altered records


def changed(found: Evidence, clean: Arrays | None = None, **attacks: Arrays) -> Evidence:
    """Evidence with other arrays of some attacks."""
    arrays = dict(found.clean if clean is None else clean)
    for attack in found.attacks:
        values = {**attack.arrays, **attacks.get(attack.name, {})}
        arrays |= {f"{attack.name}/{k}": v for k, v in values.items()}
    return Evidence([(arrays, [(a.name, a.spec) for a in found.attacks])])


def without(found: Evidence, name: str, share: float) -> Arrays:
    """Verdicts of an attack that leaves so many more (or fewer) images."""
    right = next(a.right for a in found.attacks if a.name == name).copy()
    rows = np.flatnonzero((right == 0) & (found.right > 0))[: int(share * IMAGES)]
    right[rows] = 1
    return {"right": right}


@pytest.mark.parametrize(
    ("check", "name"),
    [("C3", "pgd10"), ("C4", "pgd30"), ("C6", "pgd10_wide")],
)
def test_a_stronger_attack_that_finds_less_is_seen(check: str, name: str) -> None:
    assert check not in fired(changed(honest()))
    assert check in fired(changed(honest(), **{name: without(honest(), name, 1.0)}))


def test_restarts_that_still_find_much_are_seen() -> None:
    right = honest().of("pgd", restarts=3)[0].right.copy()
    right[np.flatnonzero(right)[: IMAGES // 20]] = 0
    assert "C5" in fired(changed(honest(), pgd30_3={"right": right}))


def test_noise_that_hurts_and_attacks_weaker_than_noise_are_seen() -> None:
    noise = np.where(np.arange(IMAGES) % 5 == 0, 0, honest().right).astype(np.float32)
    assert "C2" in fired(changed(honest(), noise={"right": noise}))


def test_verdicts_that_get_better_under_attack_fail_the_build() -> None:
    better = {"right": np.ones(IMAGES, np.float32)}
    found = [f for f in flags(changed(honest(), fgsm=better)) if f.check == "C9"]
    assert found and found[0].fails


def test_an_autoattack_weaker_than_its_part_fails_the_build() -> None:
    arrays = dict(honest().clean)
    budget = {"version": "standard", "eps": EPS, "steps": 100, "targets": 9, "queries": 5000}
    both = [("apgd", spec("apgd", **APGD)), ("autoattack", spec("autoattack", **budget))]
    half = (np.arange(IMAGES) % 2 * honest().right).astype(np.float32)
    base = honest().attacks[3].arrays
    for name, right in (("apgd", half), ("autoattack", honest().right)):
        arrays |= {f"{name}/{k}": v for k, v in {**base, "right": right}.items()}
    (found,) = [f for f in flags(Evidence([(arrays, both)])) if f.check == "C8"]
    assert found.fails and "autoattack leaves" in found.text
    about = {**json.loads(str(arrays["meta"])), "random": True}
    drawn = {**arrays, "meta": np.array(json.dumps(about))}
    (shown,) = [f for f in flags(Evidence([(drawn, both)])) if f.check == "C8"]
    assert not shown.fails and "lucky draw" in shown.text


def test_unbounded_attacks_that_leave_images_are_seen() -> None:
    asked = {"cw": spec("cw_l2", c=0.0, kappa=0.0, steps=1, lr=0.01, searches=1)}
    found = [f.text for f in flags(evidence(Single([trained(EPS)]), asked, False))]
    assert any("has not converged" in text for text in found)
    assert any("inert" in text for text in found)
    enough = {"deepfool": spec("deepfool", steps=50, overshoot=0.02, rivals=9)}
    assert fired(evidence(Single([trained(EPS)]), enough, False)) == set()


def test_side_effects_fail_the_build() -> None:
    arrays = dict(honest().clean)
    about = {**json.loads(str(arrays["meta"])), "untouched": False}
    arrays["meta"] = np.array(json.dumps(about))
    (found,) = [f for f in flags(changed(honest(), clean=arrays)) if f.check == "C18"]
    assert found.fails


def test_records_of_other_images_or_of_few_are_seen() -> None:
    def texts(*ids: np.ndarray) -> list[str]:
        right = honest().right[: len(ids[0])]
        arrays = [{**honest().clean, "clean/right": right, "ids": own} for own in ids]
        return list(symptoms.images(Evidence([(each, []) for each in arrays])))

    ids = np.arange(IMAGES)
    assert texts(ids, ids) == []
    assert "other images" in texts(ids, ids + 1)[0]
    assert "more than once" in texts(ids // 2)[0]
    assert "±10.2 points" in texts(ids[:92])[0] and texts(ids[:200]) == []


def test_images_outside_their_ball_or_the_box_are_refused() -> None:
    attacks = (("fgsm", SUITE["fgsm"]),)
    arrays = {"fgsm/linf": np.array([EPS]), "fgsm/outside": np.zeros(1)}
    check_budget(arrays, attacks, "record")
    for key, value in (("linf", EPS + 1e-4), ("linf", np.nan), ("outside", 0.01)):
        with pytest.raises(UserError, match="fgsm left"):
            check_budget({**arrays, f"fgsm/{key}": np.array([value])}, attacks, "record")
    free = (("cw", spec("cw_l2", c=1)),)
    check_budget({"cw/outside": np.zeros(1)}, free, "record")


# ---- thresholds


def test_bounds_of_paired_differences_cover_and_small_samples_do_not_fire() -> None:
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        values = generator.choice([-1.0, 0.0, 1.0], p=[0.03, 0.9, 0.07], size=300)
        missed += bound(values) > 0.04
    assert missed / 400 < 0.05
    few = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.float32)
    assert not exceeds(few, 0 * few, 0.01)
    assert exceeds(np.tile(few, 100), 0 * np.tile(few, 100), 0.01)


def test_an_attack_with_its_librarys_own_number_of_steps_is_judged_as_many() -> None:
    """RED's tables as printed name no steps: the flag compared nothing with a number."""
    arrays = dict(honest().clean)
    plain = {"norm": "linf", "as_published": True, "arguments": {"eps": EPS}}
    both = [
        (
            name,
            {"component": "torchattacks", "surrogate": "self", "fields": {**plain, "class": name}},
        )
        for name in ("FGSM", "PGD")
    ]
    base = honest().attacks[3].arrays
    none = np.zeros(IMAGES, np.float32)
    for name, right in (("FGSM", none), ("PGD", honest().right)):
        arrays |= {f"{name}/{k}": v for k, v in {**base, "right": right}.items()}
    assert "C3" in fired(Evidence([(arrays, both)]))
