"""Work that attacks spare themselves changes no result: known answers, folded networks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from victims import EPS, Changed, Counting, Exact, autoattack, held_out, right, square, trained

from pipeline.attacks import apgd, fab
from pipeline.attacks import square as module
from pipeline.attacks.square import Square
from pipeline.core.draws import Draws
from pipeline.core.folding import folded
from pipeline.core.losses import margin
from pipeline.core.norms import per_image


@torch.no_grad()
def ask_always(attack: Square, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Square without a memory, on the same draws: every query is a forward."""
    draws = Draws(1, torch.arange(len(images))).fork(0)
    low, high = (images - attack.eps).clamp_min(0), (images + attack.eps).clamp_max(1)
    best, most = images, torch.full((len(images),), -torch.inf)
    channels, height, width = images.shape[1:]

    def take(proposal: Tensor) -> None:
        nonlocal best, most
        found = margin(model(proposal), labels)
        better = (found > most) & ~(most > 0)  # who is fooled has left
        best = torch.where(per_image(better, best), proposal, best)
        most = torch.where(better, found, most)

    take(torch.where(draws.signs(channels, 1, width) > 0, high, low))
    for side, count in attack._phases(height, width):
        across = width - side + 1
        drawn = draws.fork(side).integers((height - side + 1) * across * 2**channels, count)
        for kinds in drawn.unbind(1):
            proposal = best.clone()
            for image, kind in enumerate(kinds.tolist()):
                place, bits = divmod(kind, 2**channels)
                top, left = divmod(place, across)
                for channel in range(channels):
                    edge = high if bits >> (channels - 1 - channel) & 1 else low
                    part = (channel, slice(top, top + side), slice(left, left + side))
                    proposal[(image, *part)] = edge[(image, *part)]
            take(proposal)
    return best


@pytest.mark.parametrize("channels", [1, 3])
def test_square_asks_less_and_finds_the_same(channels: int) -> None:
    images = torch.rand(6, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    model = Exact(pixels=36 * channels)
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 10  # fooled by the first query
    attack = square(eps=0.05, queries=1200)
    counting = Counting(model)
    ours = attack(counting, images, labels, Draws(1, torch.arange(6)))
    assert torch.equal(ours, ask_always(attack, model, images, labels))
    assert 0 < int(right(model, ours, labels).sum()) < 6
    assert counting.forwards < 0.5 * 6 * 1200


def test_squares_look_ahead_any_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, draws = held_out(20)
    model, found = Exact(), []
    for block in (1, 7, 64):
        monkeypatch.setattr(module, "BLOCK", block)
        found.append(square(queries=300)(model, images, labels, draws))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_square_never_asks_more_than_its_queries() -> None:
    model = Changed(nn.Flatten(), lambda z: torch.eye(10)[:1] + 0 * z[:, :10])  # all refused
    images, labels = torch.full((4, 3, 16, 16), 0.5), torch.zeros(4, dtype=torch.int64)
    for queries in (1, 2, 30, 400):
        counting = Counting(model)
        square(queries=queries)(counting, images, labels, Draws(0, torch.arange(4)))
        assert counting.forwards <= 4 * queries
    assert counting.forwards > 4 * 250  # of 400: on larger images few answers are known


# ---- folding


def test_the_verdict_is_that_of_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folded copy that calls nearly all fooled costs a part its success, and nobody a verdict."""
    model = trained(EPS)
    images, labels, draws = held_out(60)
    usual = right(model, autoattack()(model, images, labels, draws), labels)

    def lying(net: nn.Module) -> nn.Module:
        return Changed(net, lambda logits: 0 * logits)

    for part in (apgd, fab):
        monkeypatch.setattr(part, "folded", lying)
    found = autoattack()(model, images, labels, draws)
    still = right(model, found, labels)
    assert int(still.sum()) > int(usual.sum())
    square_alone = autoattack().parts()["square"](model, images, labels, draws.fork("square"))
    assert int((still & ~right(model, square_alone, labels)).sum()) <= 1


@pytest.mark.parametrize("attack", ["apgd_ce", "fab_t", "square"])
def test_folding_changes_no_verdict(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = trained(EPS)
    images, labels, draws = held_out(100)
    part = autoattack(steps=20, queries=200).parts()[attack]
    found = []
    for fold in (folded, lambda net: net):
        for each in (apgd, fab, module):
            monkeypatch.setattr(each, "folded", fold)
        found.append(right(model, part(model, images, labels, draws), labels))
    assert torch.equal(*found) and 0 < int(found[0].sum()) < 100
