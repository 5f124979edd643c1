"""Victims for attacks: digits nets trained in seconds, and models with a known answer."""

import pickle
import random
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.apgd import APGD
from pipeline.attacks.autoattack import AutoAttack
from pipeline.attacks.bim import BIM
from pipeline.attacks.fab import FAB
from pipeline.attacks.fgsm import FGSM
from pipeline.attacks.malt import MALT
from pipeline.attacks.mim import MIM
from pipeline.attacks.pgd import PGD
from pipeline.attacks.pma import PMA
from pipeline.attacks.square import Square
from pipeline.core.draws import Draws

EPS = 0.15


def pgd(**changed: Any) -> PGD:
    usual = dict(norm="linf", eps=EPS, step_size=EPS / 4, steps=5, restarts=1, start="uniform")
    return PGD(**{**usual, "loss": "ce", "any_iterate": False, **changed})


def apgd(**changed: Any) -> APGD:
    usual = dict(norm="linf", eps=EPS, steps=20, restarts=1, loss="ce", targets=0, eot=1)
    return APGD(**{**usual, "rho": name_rho(changed), **changed})


def name_rho(changed: dict[str, Any]) -> float:
    """APGD's in its norm."""
    return 0.95 if changed.get("norm") == "l1" else 0.75


def fab(**changed: Any) -> FAB:
    usual = dict(eps=EPS, steps=10, restarts=1, targets=3, alpha_max=0.1, eta=1.05, beta=0.9)
    return FAB(**{**usual, **changed})


def square(**changed: Any) -> Square:
    return Square(**{**dict(eps=EPS, queries=60, restarts=1, p_init=0.8), **changed})


def autoattack(**changed: Any) -> AutoAttack:
    usual = dict(version="standard", eps=EPS, steps=10, targets=3, restarts=1, eot=1)
    usual |= dict(rho=name_rho(changed), alpha_max=0.1, eta=1.05, beta=0.9, queries=40, p_init=0.8)
    return AutoAttack(**{**usual, **changed})


EVERY: dict[str, Callable[..., Any]] = {
    "fgsm": lambda eps=EPS: FGSM(eps=eps),
    "bim": lambda eps=EPS: BIM(eps=eps, step_size=eps / 4, steps=5),
    "mim": lambda eps=EPS: MIM(eps=eps, step_size=eps / 4, steps=5, decay=1.0),
    "pgd": lambda eps=EPS: pgd(eps=eps, step_size=eps / 4, restarts=2, any_iterate=True),
    "pgd_kl": lambda eps=EPS: pgd(eps=eps, step_size=eps / 4, start="gaussian", loss="kl"),
    "pgd_l2": lambda eps=EPS: pgd(norm="l2", eps=eps, step_size=eps / 2, loss="margin"),
    "apgd_ce": lambda eps=EPS: apgd(eps=eps),
    "apgd_dlr": lambda eps=EPS: apgd(eps=eps, loss="dlr"),
    "apgd_t": lambda eps=EPS: apgd(eps=eps, steps=10, loss="dlr_targeted", targets=3),
    "apgd_l2": lambda eps=EPS: apgd(eps=eps, norm="l2"),
    "fab_t": lambda eps=EPS: fab(eps=eps, restarts=2),
    "fab": lambda eps=EPS: fab(eps=eps, targets=0),
    "square": lambda eps=EPS: square(eps=eps),
    "autoattack": lambda eps=EPS: autoattack(eps=eps),
    "autoattack_plus": lambda eps=EPS: autoattack(eps=eps, version="plus", restarts=2),
    "pma": lambda eps=EPS: PMA(**asdict(pgd(eps=eps, step_size=eps / 4, loss="margin"))),
    "malt": lambda eps=EPS: MALT(**asdict(apgd(eps=eps, loss="dlr_targeted", targets=3, steps=10))),
    "apgd_l1": lambda eps=EPS: apgd(eps=eps, norm="l1", restarts=2),
    "fab_t_l2": lambda eps=EPS: fab(eps=eps, norm="l2", restarts=2),
    "fab_l1": lambda eps=EPS: fab(eps=eps, norm="l1", targets=0, restarts=2),
    "square_l2": lambda eps=EPS: square(eps=eps, norm="l2", restarts=2),
    "square_l1": lambda eps=EPS: square(eps=eps, norm="l1"),
    "autoattack_l2": lambda eps=EPS: autoattack(eps=eps, norm="l2"),
    "autoattack_l1": lambda eps=EPS: autoattack(eps=eps, norm="l1"),
}
NORMS = {name: name[-2:] for name in EVERY if name.endswith(("_l2", "_l1"))}  # others: l_inf


class Exact(nn.Module):
    """Two layers whose arithmetic is per sample: a sample's bits do not depend on its batch."""

    def __init__(self, pixels: int = 64, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(12, pixels, generator=generator) / 4)
        self.second = nn.Parameter(torch.randn(classes, 12, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.stack([(images.flatten(1) * row).sum(1) for row in self.first], 1)
        return torch.stack([(hidden.tanh() * row).sum(1) for row in self.second], 1)


class Linear(nn.Module):
    """Logits W x: the worst case in a ball is known."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T


class Changed(nn.Module):
    """A model with a function of its logits."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: Tensor) -> Tensor:
        changed: Tensor = self.function(self.model(images))
        return changed


class Counting(nn.Module):
    """Counts the samples that pass forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.work = {"forwards": 0, "backwards": 0}  # shared with a folded copy

    def forward(self, images: Tensor) -> Tensor:
        self.work["forwards"] += len(images)
        logits: Tensor = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.work["backwards"] += len(gradient)

    @property
    def forwards(self) -> int:
        return self.work["forwards"]

    @property
    def backwards(self) -> int:
        return self.work["backwards"]


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 images [N, 1, 8, 8] in [0, 1] and labels, shuffled once."""
    loaded = load_digits()
    order = torch.randperm(len(loaded.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    return images[order], torch.tensor(loaded.target)[order]


def held_out(count: int) -> tuple[Tensor, Tensor, Draws]:
    """Digits that no victim has seen, with their streams."""
    images, labels = digits()
    return images[-count:], labels[-count:], Draws(1, torch.arange(count))


@cache
def trained(eps: float) -> nn.Module:
    """A small CNN with batch norm in eval mode, PGD-trained at eps (0: undefended)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *[nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()],
            *[nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()],
            *[nn.Flatten(), nn.Linear(512, 10)],
        )
    images, labels = digits()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.0005)
    for epoch in range(10 if eps else 5):
        for first in range(0, 1200, 100):
            batch, own = images[first : first + 100], labels[first : first + 100]
            if eps:
                model.eval()
                draws = Draws(epoch, torch.arange(first, first + 100))
                batch = pgd(eps=eps, step_size=eps / 3)(model, batch, own, draws)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(batch), own).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def state(model: nn.Module) -> dict[str, Any]:
    """All that an attack must leave as it was, to be compared."""
    found = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
    return {
        **found,
        "modes": [module.training for module in model.modules()],
        "wanted": [p.requires_grad for p in model.parameters()],
        "gradients": gradients,
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(numpy.random.get_state()),
        "python": random.getstate(),
    }


def saturated(width: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of stripes, 0 where it should grow and 1 where it should shrink; 0 is right.

    Class 2 wins once every pixel has moved inward by a quarter.
    """
    rising = torch.arange(64) % 8 // width % 2 == 0
    weights = torch.where(rising, -1 / 32, 1 / 32)
    others = torch.tensor([0.0, 0.0, 0.5, 0.3, 0.1])
    model = Changed(
        Linear(torch.stack([weights, -weights, *(0 * weights for _ in range(3))])),
        lambda logits: logits + others,
    )
    images = (~rising).float().view(1, 1, 8, 8).repeat(6, 1, 1, 1)
    return model, images, torch.zeros(6, dtype=torch.int64)


def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Who is classified correctly, bool [B]."""
    with torch.no_grad():
        found: Tensor = model(images).argmax(1) == labels
    return found
