"""Intervals against scipy, by hand, and by simulation: how often they are wrong."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.core import intervals
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError

BENCH = runpy.run_path(str(Path(__file__).resolve().parents[2] / "bench" / "intervals.py"))


def drawn(images: int, accuracy: float, seed: int = 0) -> Verdicts:
    generator = np.random.default_rng(seed)
    return (generator.random(images) < accuracy).astype(np.float32)


# ---- an accuracy


@given(st.integers(1, 10_000), st.data())
def test_the_interval_of_one_proportion_is_wilsons(images, data):
    right = data.draw(st.integers(0, images))
    theirs = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    low, high = intervals.wilson(right / images, images)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= low <= right / images + 1e-12 and right / images - 1e-12 <= high <= 1


def test_no_images_tell_nothing():
    assert intervals.wilson(0.0, 0) == (0.0, 1.0)


@given(st.integers(3, 5), st.integers(2, 60), st.data())
def test_several_seeds_are_never_narrower_than_wilson_of_one(seeds, images, data):
    rights = [data.draw(st.integers(0, images)) for _ in range(seeds)]
    vectors = [(np.arange(images) < r).astype(np.float32) for r in rights]
    low, high = intervals.interval(vectors)
    least, most = intervals.wilson(float(np.mean(vectors)), images)
    assert 0 <= low <= least + 1e-9 and most - 1e-9 <= high <= 1


def test_three_seeds_at_0_of_300_are_wilsons_1_3_and_not_0():
    low, high = intervals.interval([np.zeros(300, np.float32)] * 3)
    assert (low, high) == pytest.approx((0.0, 0.0126), abs=2e-4)
    assert intervals.interval([np.ones(300, np.float32)] * 3)[1] == 1.0


def test_an_interval_near_0_is_asymmetric_with_several_seeds_too():
    vectors = [(np.arange(600) < count).astype(np.float32) for count in (4, 5, 6)]
    low, high = intervals.interval(vectors)
    mean = 5 / 600
    assert 0 < low < mean < high and high - mean > 1.5 * (mean - low)


def test_two_seeds_have_no_interval():
    pair = [drawn(100, 0.5, seed) for seed in range(2)]
    assert intervals.interval(pair) is None
    found = intervals.paired(pair, pair[::-1])
    assert found.spread() is None and found.p_above() is None and found.of == "none"
    assert intervals.numbers(found)["low"] is None


def test_a_regret_may_be_negative():
    values = np.where(np.arange(200) < 100, -1.0, 0.5).astype(np.float32)
    low, high = intervals.interval([values])
    assert low < -0.25 < high and low == pytest.approx(-0.25 - 1.97 * 0.75 / 200**0.5, abs=1e-3)


# ---- a difference


def test_crossed_effects_by_hand():
    """Seeds [0, 1, 2] of two images: MS of seeds 2, of images 6, of the rest 0."""
    values = np.array([[-1.0, 1.0], [0.0, 2.0], [1.0, 3.0]])
    found = intervals.crossed(values, added=0)
    image_part = 1.0 / 2  # variance of the image means over their number
    seed_part = 1.0 / 3
    assert found.value == 1.0
    assert found.variance == pytest.approx(image_part + seed_part)
    df = (image_part + seed_part) ** 2 / (seed_part**2 / 2 + image_part**2 / 1)
    assert found.df == pytest.approx(df)


def test_one_seed_has_the_normal_interval_of_its_images():
    common = drawn(4000, 0.6)
    ours = np.maximum(common, drawn(4000, 0.1, 1))
    found = intervals.paired([ours], [common])
    difference = (ours - common).astype(np.float64)
    half = 1.96 * difference.std() / np.sqrt(4000)
    assert found.of == "nets" and found.value == pytest.approx(difference.mean())
    assert found.spread() == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.02 * half
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_verdicts_are_not_known_to_be_equal(seeds):
    common = drawn(50, 0.5)
    found = intervals.paired([common] * seeds, [common] * seeds)
    low, high = found.spread()
    assert found.value == 0 and high == -low and 0.03 < high < 0.05


def test_seeds_that_differ_widen_what_is_said_of_methods():
    base = drawn(2000, 0.5)
    gains = [np.maximum(base, drawn(2000, p, 5)) for p in (0.0, 0.1, 0.2)]
    low, high = intervals.paired(gains, [base] * 3).spread()
    one = intervals.paired([gains[1]], [base]).spread()
    assert high - low > 5 * (one[1] - one[0]) and low < 0 < high


def test_other_numbers_of_seeds_have_no_paired_difference():
    a, b = [drawn(300, 0.5, s) for s in range(3)], [drawn(300, 0.4, 9)]
    with pytest.raises(UserError, match="3 and 1 seeds: no paired difference"):
        intervals.paired(a, b)


# ---- simulated


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("images", "repetitions"),
    [(600, 1500), (4000, 600)],
)
def test_intervals_of_methods_err_in_less_than_8_percent(seeds, images, repetitions):
    for deviation in (0.4, 0.8, 1.35):
        error, _, coverage = BENCH["errors"](seeds, images, deviation, repetitions)
        assert error < 0.08 and coverage > 0.9, deviation


def test_one_seed_is_a_statement_on_these_nets():
    """New images, the same two equal nets: 5 %; said of methods it would err in 25 % and more."""
    error, _, coverage = BENCH["errors"](1, 600, 0.0, 1000)
    assert error < 0.08 and coverage > 0.93
    assert BENCH["errors"](1, 10_000, 0.8, 100)[0] > 0.25


def test_two_seeds_get_none_in_the_simulation_too():
    assert BENCH["errors"](2, 600, 0.4, 3)[0] is None
