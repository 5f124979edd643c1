import math

import pytest
import torch
from scipy import stats

from pipeline.core.draws import Draws, derive

KINDS = {
    "uniform": lambda draws: draws.uniform(3, 5),
    "normal": lambda draws: draws.normal(3, 5),
    "integers": lambda draws: draws.integers(1000, 3, 5),
    "signs": lambda draws: draws.signs(3, 5),
}


def chi_square(counts: torch.Tensor) -> float:
    """p value of equal chances."""
    return float(stats.chisquare(counts.numpy()).pvalue)


def correlation(left: torch.Tensor, right: torch.Tensor) -> float:
    """In standard deviations of what independent numbers give."""
    both = torch.stack([left.flatten(), right.flatten()]).double()
    return float(torch.corrcoef(both)[0, 1]) * math.sqrt(left.numel())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_draws_the_same_numbers_in_any_batch(kind: str) -> None:
    ids = torch.tensor([7, 3, 11, 3, 2**40, -5])
    together = KINDS[kind](Draws(1, ids))
    assert torch.equal(together[1], together[3])
    alone = torch.cat([KINDS[kind](Draws(1, ids[i : i + 1])) for i in range(len(ids))])
    assert torch.equal(together, alone)
    order = torch.tensor([4, 0, 5, 2])
    assert torch.equal(together[order], KINDS[kind](Draws(1, ids[order])))


@pytest.mark.parametrize("kind", KINDS)
def test_select_goes_on_where_the_samples_stand(kind: str) -> None:
    whole, ids = Draws(1, torch.arange(6)), torch.arange(6)
    whole.uniform(2)
    half = whole.select(ids % 2 == 0)
    picked = whole.select(torch.tensor([0, 2, 4]))
    expected = KINDS[kind](whole)[::2]
    assert len(half) == 3
    assert torch.equal(KINDS[kind](half), expected)
    assert torch.equal(KINDS[kind](picked), expected)


def test_calls_forks_keys_and_ids_all_give_other_numbers() -> None:
    draws = Draws(1, torch.arange(4))
    seen = [draws.uniform(8), draws.uniform(8), draws.fork("a").uniform(8)]
    seen += [draws.fork("b").uniform(8), draws.fork(0).uniform(8), draws.fork("0").uniform(8)]
    seen += [draws.fork("a").fork("a").uniform(8), Draws(2, torch.arange(4)).uniform(8)]
    rows = torch.cat(seen)
    assert len(rows.unique(dim=0)) == len(rows)


def test_a_fork_does_not_depend_on_calls_before_it() -> None:
    fresh, used = Draws(1, torch.arange(4)), Draws(1, torch.arange(4))
    used.uniform(3)
    assert torch.equal(fresh.fork("start").uniform(3), used.fork("start").uniform(3))


def test_a_longer_draw_begins_like_a_shorter_one_of_any_parity() -> None:
    ids = torch.arange(3)
    long = Draws(1, ids).uniform(9)
    for count in range(9):
        assert torch.equal(Draws(1, ids).uniform(count), long[:, :count])
    assert Draws(1, ids).uniform().shape == (3,)


def test_numbers_are_those_of_this_table() -> None:
    draws = Draws(0, torch.tensor([0, 1]))
    assert draws.integers(10**6, 3).tolist() == [[964682, 687846, 216446], [700842, 630403, 448312]]
    assert draws.uniform(2).double().mul(2**24).long().tolist() == [
        [8060180, 14243043],
        [11537845, 2320148],
    ]
    assert draws.signs(6).int().tolist() == [[1, -1, -1, 1, 1, -1], [1, -1, -1, 1, 1, 1]]
    assert derive(0, "train", 1) == 6133370629789370551


def test_words_are_those_of_splitmix64() -> None:
    """Against SplitMix64 written with Python's integers."""

    def mix(word: int) -> int:
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        return word ^ word >> 31

    golden = 0x9E3779B97F4A7C15
    sample = mix(mix(9) ^ derive(5))
    start = mix((sample + golden) % 2**64)
    words = [mix((start + golden * k) % 2**64) for k in (1, 2)]
    halves = [half for word in words for half in (word % 2**32, word >> 32)]
    drawn = Draws(5, torch.tensor([9])).uniform(4)[0]
    assert drawn.double().mul(2**24).tolist() == [half >> 8 for half in halves]


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    for draw in KINDS.values():
        draw(Draws(1, torch.arange(4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_derived_seeds_tell_words_from_numbers_and_fit_a_generator() -> None:
    seeds = {
        derive(0),
        derive(0, 1),
        derive(0, "1"),
        derive(1),
        derive(0, "a", "b"),
        derive(0, "ab"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_uniforms_are_uniform_in_every_bit() -> None:
    numbers = Draws(3, torch.arange(500)).uniform(1000)
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
    assert abs(float(numbers.mean()) - 1 / 2) < 5 * math.sqrt(1 / 12 / numbers.numel())
    assert abs(float(numbers.var()) * 12 - 1) < 0.01
    assert chi_square(torch.histc(numbers, 512, 0, 1)) > 1e-4
    words = (numbers * 2**24).long()
    shares = torch.stack([(words >> bit & 1).double().mean() for bit in range(24)])
    assert float((shares - 0.5).abs().max()) < 5 * 0.5 / math.sqrt(numbers.numel())


def test_pairs_of_neighbouring_positions_fill_the_square() -> None:
    numbers = (Draws(4, torch.arange(400)).uniform(1000) * 16).long()
    for step in (1, 2, 7):
        pairs = numbers[:, :-step] * 16 + numbers[:, step:]
        assert chi_square(torch.bincount(pairs[:, :: step + 1].flatten(), minlength=256)) > 1e-4


def test_neighbouring_ids_calls_positions_keys_and_forks_are_uncorrelated() -> None:
    draws = Draws(5, torch.arange(400))
    first, second = draws.uniform(500), draws.uniform(500)
    others = [second, Draws(6, torch.arange(400)).uniform(500), draws.fork(0).uniform(500)]
    for other in others:
        assert abs(correlation(first, other)) < 5
    for lag in (1, 2, 16):
        assert abs(correlation(first[:-lag], first[lag:])) < 5
        assert abs(correlation(first[:, :-lag], first[:, lag:])) < 5


def test_normals_are_normal_and_uncorrelated() -> None:
    numbers = Draws(7, torch.arange(300)).normal(1000)
    assert numbers.dtype == torch.float32
    assert abs(float(numbers.mean())) < 5 / math.sqrt(numbers.numel())
    bins = torch.special.ndtr(numbers.double()).mul(256).long()
    assert chi_square(torch.bincount(bins.flatten(), minlength=256)) > 1e-4
    assert abs(correlation(numbers[:, ::2], numbers[:, 1::2])) < 5


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_are_uniform_below_high(high: int) -> None:
    numbers = Draws(8, torch.arange(200)).integers(high, 1000)
    assert numbers.dtype == torch.int64
    assert int(numbers.min()) >= 0 and int(numbers.max()) < high
    if high > 1:
        assert chi_square(torch.bincount(numbers.flatten(), minlength=high)) > 1e-4


def test_signs_are_balanced() -> None:
    signs = Draws(9, torch.arange(200)).signs(1000)
    assert signs.abs().eq(1).all()
    assert abs(float(signs.mean())) < 5 / math.sqrt(signs.numel())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_numbers() -> None:
    ids = torch.arange(64)
    here, there = Draws(1, ids), Draws(1, ids.cuda())
    assert torch.equal(here.uniform(3, 32, 32), there.uniform(3, 32, 32).cpu())
    assert torch.equal(here.integers(10, 99), there.integers(10, 99).cpu())
    assert torch.equal(here.signs(99), there.signs(99).cpu())
    assert torch.allclose(here.normal(999), there.normal(999).cpu(), rtol=1e-6, atol=1e-7)
