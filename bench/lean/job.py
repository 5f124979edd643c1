"""What a step by hand works on, and the few lines that such loops share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Forward = Callable[[Tensor], Tensor]


@dataclass
class Job:
    """images [B, C, H, W] in [0, 1], labels [B]; `values` are the method's fields, `attack` those
    of its attack. `mode` is that of batch normalisation while examples are crafted."""

    members: list[nn.Module]
    optimisers: list[torch.optim.Optimizer]
    images: Tensor
    labels: Tensor
    values: SimpleNamespace
    attack: SimpleNamespace | None
    mode: str
    progress: float  # share of the epochs that are over
    depth: int  # of the features that DVERGE reads
    assistants: list[nn.Module] = field(default_factory=list)
    parents: dict[str, list[nn.Module]] = field(default_factory=dict)

    def craft(
        self, forward: Forward, nets: list[nn.Module], images: Tensor | None = None
    ) -> Tensor:
        """PGD by the recipe's attack on scores of `nets`; labels are the last ones."""
        x = self.images if images is None else images
        y, a = self.labels[-len(x) :], self.attack
        with crafting(nets, self.mode):
            if a.loss == "kl":
                with torch.no_grad():
                    clean = forward(x).softmax(1)

            def rises(moved: Tensor) -> Tensor:
                z = forward(moved)
                if a.loss == "kl":
                    return F.kl_div(z.log_softmax(1), clean, reduction="sum")
                return F.cross_entropy(z, y, reduction="sum")

            start = begin(x, a.eps, a.start)
            return climb(rises, start, x, a.eps, a.step_size, a.steps)


def uniform(images: Tensor) -> Tensor:
    """Numbers in [0, 1), one a pixel."""
    return torch.rand_like(images)


def gaussian(images: Tensor) -> Tensor:
    """Standard normal numbers, one a pixel."""
    return torch.randn_like(images)


def begin(x: Tensor, eps: float, start: str) -> Tensor:
    """Where an attack starts."""
    if start == "uniform":
        return clip(x + eps * (2 * uniform(x) - 1), x, eps)
    return clip(x + 0.001 * gaussian(x), x, eps)


def clip(moved: Tensor, x: Tensor, eps: float) -> Tensor:
    """Into the ball around x and into the box."""
    return torch.clamp(x + torch.clamp(moved - x, -eps, eps), 0, 1)


def slope(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient in x of one number."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(value(x), x)[0]


def climb(
    value: Callable[[Tensor], Tensor], x0: Tensor, x: Tensor, eps: float, step: float, steps: int
) -> Tensor:
    """Signed steps."""
    for _ in range(steps):
        x0 = clip(x0 + step * slope(value, x0).sign(), x, eps)
    return x0


@contextmanager
def crafting(nets: list[nn.Module], mode: str) -> Iterator[None]:
    """Nets in evaluation mode, or in training mode, whose running statistics move or do not."""
    norms = [m for net in nets for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for net in nets:
        net.train(mode != "eval")
    for norm in norms:
        norm.track_running_stats = mode != "train_frozen"
    yield
    for norm in norms:
        norm.track_running_stats = True
    for net in nets:
        net.train()


def update(optimisers: list[torch.optim.Optimizer], loss: Tensor) -> None:
    """One step of each."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()


def mean_prob(nets: list[nn.Module]) -> Forward:
    """Log of the mean softmax."""
    return lambda x: torch.stack([net(x).softmax(1) for net in nets]).mean(0).log()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax p || softmax q), [B]."""
    return F.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)


def true(z: Tensor, y: Tensor) -> Tensor:
    """Probability of the true class, [B]."""
    return z.softmax(1)[torch.arange(len(y)), y]


def rival(p: Tensor, y: Tensor) -> Tensor:
    """Largest probability of a wrong class, [B]."""
    return p.masked_fill(F.one_hot(y, p.shape[1]).bool(), -1).amax(1)
