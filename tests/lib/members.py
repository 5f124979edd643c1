"""Members in training, as a method's update sees them: thin nets, a recipe, one batch."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from nets import TINY
from torch import Tensor, nn

from pipeline.contracts.maker import Maker
from pipeline.contracts.recipe import Recipe
from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.core.layers import Net
from pipeline.loading import registry
from pipeline.methods.aute import Aute
from pipeline.plan.params.entries import Entries

ENTRIES = Entries(tiny.params())
NAMES = list(ENTRIES.params["methods"])


def one_a_method() -> list[Any]:
    """Every entry, those that are a variant of an earlier one's method for `make thorough`."""
    seen, found = set[tuple[str, bool]](), []
    for name in NAMES:
        resolved = ENTRIES.method(name, tiny.SETTING)[0]
        kind = resolved.component, resolved.fields["joint"]
        found.append(pytest.param(name, marks=[pytest.mark.thorough] if kind in seen else []))
        seen.add(kind)
    return found


BOTH = {"combine": "mean_prob"}


def method_of(entry: str, **changed: Any) -> Any:
    method = registry.build("methods", ENTRIES.method(entry, tiny.SETTING)[0].spec)
    return replace(method, **changed)


def recipe_of(entry: str, **changed: Any) -> Recipe:
    return Recipe(**{**ENTRIES.method(entry, tiny.SETTING)[1], **changed})


def attack_of(entry: str) -> Any:
    name = ENTRIES.method(entry, tiny.SETTING)[1]["attack"]
    found = ENTRIES.attack(name, ENTRIES.stand_in("cifar10")[1])
    return registry.build("attacks", found.spec) if found else None


def fields_of(entry: str, kind: str) -> dict[str, str]:
    """What an entry's fields of one type name."""
    resolved = ENTRIES.method(entry, tiny.SETTING)[0]
    types = ENTRIES.component("methods", resolved.component).types
    return {k: v for k, v in resolved.fields.items() if types[k] == kind and v != "none"}


def attacks_of(entry: str) -> dict[str, Any]:
    """The attacks that the method's own fields name."""
    factor = ENTRIES.stand_in("cifar10")[1]
    named = fields_of(entry, "Attack")
    return {k: registry.build("attacks", ENTRIES.attack(v, factor).spec) for k, v in named.items()}


def parents_of(entry: str, network: Any, members: int) -> dict[str, nn.Module]:
    """Frozen victims as the plan names them, of fresh nets."""
    found = {}
    for field, name in (fields_of(entry, "Parent") | fields_of(entry, "Start")).items():
        count = ENTRIES.params["parents"].get(name, {}).get("members", members)
        nets = Maker(len(found) + 1, network, {})
        frozen = [nets(i).eval().requires_grad_(False) for i in range(count)]
        found[field] = combine("mean_prob", frozen).eval()
    return found


def training_of(entry: str, method: Any, members: int, **recipe: Any) -> Training:
    """Fresh thin nets in training mode, with the entry's recipe, attacks and parents."""

    def network() -> Net:
        return TINY.build(classes=10, channels=1, size=8, mean=[0.4], std=[0.25])

    make = Maker(0, network, {"teacher_arch": network})
    nets, assistants = method.build(make, members), method.assist(make)
    for net in [*nets, *assistants]:
        net.train()
    training = Training(
        members=nets,
        ensemble=combine(method.combine, nets),
        recipe=recipe_of(entry, **recipe),
        attack=attack_of(entry),
        classes=10,
        parents=parents_of(entry, network, members),
        assistants=assistants,
        attacks=attacks_of(entry),
        epoch=3,
    )
    training.optimisers = method.setup(training)
    return training


def batch_of(count: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return Batch(images, labels, Draws(seed, torch.arange(count)))


def train_steps(method: Any, training: Training, steps: int = 3) -> list[dict[str, Tensor]]:
    """Weights and buffers of the members after some batches."""
    for step in range(steps):
        method.step(training, batch_of(seed=step))
    return states(training)


def states(training: Training) -> list[dict[str, Tensor]]:
    return [{k: v.clone() for k, v in m.state_dict().items()} for m in training.members]


def assert_same(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> None:
    for one, other in zip(a, b, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


# the example of the golden values: clean and adversarial logits of two images
Z = torch.tensor([[2.0, 0, -1], [0.5, 1.5, 0]], dtype=torch.float64)
A = torch.tensor([[1.0, 0.5, 0], [0, 1, 1.2]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


class Given(nn.Module):
    """Logits that are its own parameter, float64."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.to(torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def aute_losses(
    method: Aute, members: list[Tensor], labels: Tensor, index: int = 0, epoch: int = 120
) -> tuple[Tensor, list[Given]]:
    """Losses of member `index` when the members' logits are given."""
    nets = [Given(logits) for logits in members]
    training = training_of("aute", method, 1)
    training.members, training.epoch = list(nets), epoch
    images = torch.zeros(len(labels), 1, 2, 2)
    batch = Batch(images, labels, Draws(0, torch.arange(len(labels))))
    return method.loss(training, index, batch, images), nets


class Answers(nn.Module):
    """Logits `rows[k]` on images whose every pixel is k, float64; they are its parameters."""

    def __init__(self, *rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(row.to(torch.float64)) for row in rows)

    def forward(self, images: Tensor) -> Tensor:
        (which,) = set(images.flatten().tolist())
        return self.rows[int(which)]


def losses_of(
    method: Any, member: nn.Module, labels: Tensor = LABELS, epoch: int = 3, **parents: nn.Module
) -> Tensor:
    """Losses [B] of a member on clean images of pixels 0 and adversarial ones of pixels 1."""
    clean = torch.zeros(len(labels), 1, 2, 2, dtype=torch.float64)
    training = training_of("standard", method_of("standard"), 1)
    training.members, training.parents, training.epoch = [member], parents, epoch
    batch = Batch(clean, labels, Draws(0, torch.arange(len(labels))))
    return method.loss(training, 0, batch, clean + 1)
