"""Worst cases; red flags on made and on trained victims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import metrics
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.flags.evidence import Evidence, check_budget
from pipeline.flags.flags import flags


def drawn(images: int, accuracy: float, seed: int = 0) -> Verdicts:
    generator = np.random.default_rng(seed)
    return (generator.random(images) < accuracy).astype(np.float32)


# ---- verdicts


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=4))
def test_a_worst_case_can_only_fall(lists):
    verdicts = [np.array(v, np.float32) / 3 for v in lists]
    found = metrics.worst(verdicts)
    assert all((found <= v).all() for v in verdicts)
    assert (found == metrics.worst([found, *verdicts])).all()


# ---- red flags


def attack(norm: str | None = "linf", eps: float = 0.1) -> tuple[str, dict[str, object]]:
    fields = {"eps": eps} if norm is None else {"eps": eps, "norm": norm}
    return "a", {"fields": fields}


def sizes(**changed: float) -> dict[str, np.ndarray]:
    found = {"linf": 0.1, "l2": 0.5, "outside": 0.0, **changed}
    return {f"a/{k}": np.array([0.0, v], np.float32) for k, v in found.items()}


def test_images_in_ball_and_box_pass_and_rounding_is_forgiven():
    check_budget(sizes(linf=0.1000005), (attack(),), "r")
    check_budget(sizes(linf=0.7), (attack("l2", 0.5),), "r")


@pytest.mark.parametrize("changed, norm, eps", [
    ({"linf": 0.11}, "linf", 0.1),
    ({"linf": 0.11}, None, 0.1),
    ({"l2": 0.6}, "l2", 0.5),
    ({"linf": float("nan")}, "linf", 0.1),
    ({"outside": 0.01}, "linf", 0.1),
    ({"outside": float("nan")}, "linf", 0.1),
])  # fmt: skip
def test_an_image_out_of_its_ball_or_the_box_fails_the_table(changed, norm, eps):
    with pytest.raises(UserError, match="r: a left (its ball|the range of pixels)"):
        check_budget(sizes(**changed), (attack(norm, eps),), "r")


def evidence(zero: int, images: int, **verdicts: np.ndarray) -> Evidence:
    """Attacks by name, those whose name ends in `_ce` PGD on cross-entropy; no other faults."""
    rows = np.arange(images)
    ones = np.ones(images, np.float32)
    arrays = {"ids": rows, "labels": rows % 10, "clean/right": ones, "clean/loss": 0 * ones}
    arrays |= {"clean/zero_gradient": rows < zero, "clean/agreement": ones / 2}
    arrays |= {"clean/margin": ones, "clean/members": rows[:, None] % 10}
    arrays["meta"] = np.array('{"spec": {}, "weights": {}, "suite": "unified"}')
    attacks = []
    for name, right in verdicts.items():
        arrays |= {f"{name}/right": right, f"{name}/loss": ones, f"{name}/asked": ones > 0}
        arrays |= {f"{name}/unchanged": ones < 0, f"{name}/margin": ones, f"{name}/linf": ones}
        fields = {"eps": 0.1, "norm": "linf", "loss": "ce" if name.endswith("_ce") else "margin"}
        spec = {"component": "pgd", "fields": fields | {"step_size": float(len(attacks))}}
        attacks.append((name, {**spec, "surrogate": "self"}))
    return Evidence([(arrays, attacks)])


def checks(zero: int, ce: int, least: int, images: int = 600) -> list[str]:
    """Checks that fire for so many images without gradient, right under CE, right in the worst."""
    best, worst = ((np.arange(images) < n).astype(np.float32) for n in (ce, least))
    return [f.check for f in flags(evidence(zero, images, pgd_ce=best, other=worst))]


def test_flags_fire_beyond_their_thresholds_only_when_images_suffice():
    assert checks(zero=0, ce=300, least=280) == []
    assert checks(zero=60, ce=300, least=280) == ["C13"]
    assert checks(zero=0, ce=300, least=200) == ["C10"]
    assert checks(zero=600, ce=300, least=0) == ["C10", "C13"]
    assert checks(zero=7, ce=300, least=250) == []  # 1.2 and 8.3 %: as noise might
    assert checks(zero=1, ce=12, least=9, images=20) == ["C19"]  # the subset is too small


def test_of_several_cross_entropy_attacks_the_strongest_speaks():
    weak, strong = np.ones(600, np.float32), drawn(600, 0.5)
    assert flags(evidence(0, 600, weak_ce=weak, strong_ce=strong)) == []
    (flag,) = flags(evidence(0, 600, weak_ce=weak, strong=strong))
    assert flag.check == "C10" and "cross-entropy PGD (weak_ce) overstates by" in flag.text
    assert flags(evidence(0, 600, weak=weak, strong=strong)) == []
