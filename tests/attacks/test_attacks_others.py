"""What all other attacks keep to as well: the model as it was, saturated pixels, the box."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_attacks_members import GOALS, l1, members_pgd, svgd
from test_attacks_transfer import di2, eot_pgd
from test_attacks_unbounded import cw, deepfool, fog
from torch import nn
from victims import EPS, held_out, saturated, state

from pipeline.attacks.blur import Blur
from pipeline.attacks.noise import Noise
from pipeline.core.draws import Draws
from pipeline.core.layers import Residual
from pipeline.evaluation.surrogates import Answers

FULL = 0.99 * EPS
# the attack; the least move inward of each saturated pixel, and of what share of pixels
OTHERS: dict[str, tuple[Callable[..., Any], float, float]] = {
    "di2": (di2(decay=0.0), 0.9 * EPS, 0.7),  # resizing blurs edges
    "m_di2": (di2(start="uniform", restarts=2), 0.5 * EPS, 1),
    "mpgd": (di2(probability=0.0, start="uniform", loss="margin"), FULL, 1),
    "sgm": (di2(probability=0.0, gamma=0.2), FULL, 1),
    "eot_pgd": (eot_pgd(), FULL, 1),
    **{f"members_{goal}": (members_pgd(goal), FULL, 1) for goal in GOALS},
    "chosen_gate": (members_pgd("gate", "confident"), FULL, 1),
    "svgd": (svgd(), FULL, 0.8),  # repulsion may be stronger than the rise
    "svgd_none": (svgd(kernel="none"), FULL, 1),
    "cw_l2": (cw(c=10.0, searches=4, steps=200), 0.24, 1),
    "deepfool": (deepfool(), 0.25, 1),
    "l1": (l1(), 0.04, 1),  # 3 of 64
    "fog": (fog(), 1e-6, 0.95),
    "blur": (Blur(widths=[0.5, 1.0]), 0.4, 1),
    "noise": (Noise(norm="linf", eps=EPS, tries=3), 1e-6, 0.4),
    "noise_l2": (Noise(norm="l2", eps=EPS, tries=3), 1e-6, 0.4),
}
others = pytest.mark.parametrize("name", OTHERS)


def meets(name: str, model: nn.Module) -> nn.Module:
    """What the attack differentiates: a residual net, every member's answers, or the model."""
    if name == "sgm":
        branch = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Tanh())
        return nn.Sequential(Residual(nn.Identity(), *branch, nn.Identity()), model)
    return Answers([model, model]) if name.startswith(("members", "chosen")) else model


@others
def test_the_model_and_the_generators_are_left_as_they_were(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *[nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.0), nn.ReLU(inplace=True)],
            *[nn.Flatten(), nn.Linear(144, 10)],
        )
    model = meets(name, net).train()
    net[1].eval()  # a frozen batch norm in a training model
    net[0].weight.requires_grad_(False)
    net[5].bias.grad = torch.ones_like(net[5].bias)
    images, _, draws = held_out(8)
    labels = net(images).argmax(1)  # who is wrong before is not moved by every attack
    kept, before = [images.clone(), labels.clone()], state(model)
    moved = OTHERS[name][0](model, images, labels, draws)
    assert not torch.equal(moved, images) and not moved.requires_grad
    assert state(model) == before
    assert torch.equal(images, kept[0]) and torch.equal(labels, kept[1])


@others
def test_saturated_pixels_move_inward(name: str) -> None:
    attack, least, share = OTHERS[name]
    model, images, labels = saturated(4 if "di2" in name else 1)
    moved = attack(meets(name, model), images, labels, Draws(0, torch.arange(6)))
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert float(((moved - images).abs() >= least).float().mean()) >= share
