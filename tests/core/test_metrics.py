"""Intervals against scipy and known distributions; red flags on made and on trained victims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.core import metrics
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.flags.evidence import Evidence, check_budget
from pipeline.flags.flags import flags


def drawn(images: int, accuracy: float, seed: int = 0) -> Verdicts:
    generator = np.random.default_rng(seed)
    return (generator.random(images) < accuracy).astype(np.float32)


# ---- intervals


@given(st.integers(1, 10_000), st.data())
def test_the_interval_of_one_proportion_is_wilsons(images, data):
    right = data.draw(st.integers(0, images))
    theirs = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    low, high = metrics.wilson(right / images, images)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= low <= right / images + 1e-12 and right / images - 1e-12 <= high <= 1


def test_no_images_tell_nothing():
    assert metrics.wilson(0.0, 0) == (0.0, 1.0)


def test_one_seed_has_wilsons_interval_and_several_a_bootstrap():
    one = drawn(500, 0.7)
    assert metrics.interval([one]) == metrics.wilson(float(one.mean()), 500)
    low, high = metrics.interval([one, one, one])
    width = 2 * 1.96 * np.sqrt(one.var() / 500)  # equal seeds add nothing but their images
    assert high - low == pytest.approx(width, rel=0.03)


def test_a_bootstrap_over_seeds_sees_how_they_differ():
    images, means = 2000, (0.5, 0.6, 0.7)
    low, high = metrics.interval([np.full(images, m, np.float32) for m in means])
    # three seeds drawn with replacement: the extremes come up with probability 1/27 each
    assert (low, high) == pytest.approx((0.5, 0.7))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_paired_difference_has_the_normal_interval_of_its_images(seeds):
    common = drawn(4000, 0.6)
    ours, theirs = np.maximum(common, drawn(4000, 0.1, 1)), common
    found = metrics.paired([ours] * seeds, [theirs] * seeds)
    difference = (ours - theirs).astype(np.float64)
    half = 1.96 * difference.std() / np.sqrt(4000)
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["low"] == pytest.approx(difference.mean() - half, abs=0.05 * half)
    assert found["high"] == pytest.approx(difference.mean() + half, abs=0.05 * half)


def test_pairing_is_narrower_than_two_intervals_and_zero_for_a_victim_and_itself():
    common, mine = drawn(1000, 0.5), drawn(1000, 0.5)
    mine[:10] = 1 - mine[:10]
    found = metrics.paired([mine], [common])
    low, high = metrics.wilson(0.5, 1000)
    assert found["high"] - found["low"] < (high - low) / 4
    assert metrics.paired([common], [common]) == {"difference": 0, "low": 0, "high": 0}


def test_unequal_numbers_of_seeds_are_compared_by_their_means():
    a, b = [drawn(300, 0.5, s) for s in range(3)], [drawn(300, 0.4, 9)]
    found = metrics.paired(a, b)
    assert found["difference"] == pytest.approx(np.mean(a) - b[0].mean(), abs=1e-6)


def test_intervals_repeat_and_grouping_equal_images_changes_no_distribution():
    values = [drawn(60, 0.5, s) for s in range(2)]
    assert metrics.interval(values) == metrics.interval(values)
    generator = np.random.default_rng(0)
    stacked, means = np.stack(values).astype(float), []
    for _ in range(4000):  # images one by one
        rows, seeds = generator.integers(60, size=60), generator.integers(2, size=2)
        means.append(stacked[seeds][:, rows].mean())
    assert metrics.interval(values) == pytest.approx(
        tuple(np.quantile(means, [0.025, 0.975])), abs=0.02
    )


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
        arrays |= {f"{name}/unchanged": ones < 0, f"{name}/margin": ones}
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
