"""Models that draw: one fooled draw proves nothing."""

import pytest
import torch
from torch import Tensor, nn
from victims import EPS, Counting, apgd, autoattack, fab, held_out, pgd, square, trained

from pipeline.core.ascent import keep_worst
from pipeline.errors import UserError


class Coin(nn.Module):
    """Every forward draws one of two members."""

    random = True

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([trained(0.0), trained(EPS)])
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        drawn = int(torch.randint(2, (), generator=self.generator))
        logits: Tensor = self.members[drawn](images)
        return logits


def test_nobody_leaves_under_a_random_model() -> None:
    images, labels, draws = held_out(30)
    for attack, forwards in (
        (pgd(steps=4, restarts=3), 3 * 5),
        (apgd(steps=10, restarts=2, eot=3), 2 * (11 + 1) * 3),
        (autoattack(version="rand", eot=2), 2 + 2 * (2 * 11 + 2)),
    ):
        counting = Counting(Coin())
        counting.random = True
        attack(counting, images, labels, draws)
        assert counting.forwards == 30 * forwards, attack


def test_under_a_random_model_the_attempt_with_the_best_mean_margin_is_kept() -> None:
    images, labels, _ = held_out(10)
    model = Coin()
    weak, strong = images + 0.001, pgd(steps=20)(trained(EPS), images, labels, held_out(10)[2])
    attempts = [lambda rows: weak[rows], lambda rows: strong[rows], lambda rows: images[rows]]
    kept = keep_worst(attempts, model, images, labels, votes=30)
    assert float((kept == strong).flatten(1).all(1).float().mean()) > 0.8


def test_attacks_that_trust_one_draw_refuse_a_random_model() -> None:
    images, labels, draws = held_out(4)
    for attack in (pgd(any_iterate=True), square(), fab(), autoattack()):
        with pytest.raises(UserError, match="one lucky draw of a random model"):
            attack(Coin(), images, labels, draws)
