"""A training of tiny members on a few images, for tests of methods."""

from typing import Any

import torch
from nets import TINY
from torch import Tensor, nn

from pipeline.attacks.pgd import PGD
from pipeline.contracts.maker import Maker
from pipeline.contracts.method import Method
from pipeline.contracts.recipe import Recipe
from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.loading.registry import component_class
from pipeline.plan import load_plan

PLAN = load_plan()
ATTACK = PGD(
    norm="linf", eps=0.1, step_size=0.04, steps=2, restarts=1, start="uniform", loss="ce",
    any_iterate=False,
)  # fmt: skip


def method_of(name: str, **changed: Any) -> Any:
    """The method of an entry of params.yaml, some fields changed."""
    from pipeline.plan.params.entries import Setting

    setting = Setting("cifar10", "resnet20", "unified", 3, 0)
    resolved, _ = PLAN.entries.method(name, setting)
    return component_class("methods", resolved.component)(**{**resolved.fields, **changed})


def recipe(**changed: Any) -> Recipe:
    fields, _ = PLAN.entries.recipe("unified", {})
    return Recipe(**{**fields, "lr": 0.05, "weight_decay": 0.0, **changed})


def training_of(
    method: Method, members: int = 2, epoch: int = 1, arch: Any = TINY, double: bool = False
) -> Training:
    build = lambda: arch.build(classes=4, channels=1, size=8, mean=[0.4], std=[0.3])  # noqa: E731
    make = Maker(0, build, {"teacher_arch": build})
    networks = method.build(make, members), method.assist(make)
    for network in [*networks[0], *networks[1]]:
        network.train()
        if double:
            network.double()
    training = Training(
        members=networks[0],
        ensemble=combine(method.combine, networks[0]),
        recipe=recipe(),
        attack=ATTACK,
        classes=4,
        assistants=networks[1],
        epoch=epoch,
    )
    training.optimisers = method.setup(training)
    return training


def batch_of(size: int = 6, seed: int = 0, double: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 1, 8, 8, generator=generator)
    labels = torch.randint(4, (size,), generator=generator)
    return Batch(images.double() if double else images, labels, Draws(seed, torch.arange(size)))


def weights(networks: list[nn.Module]) -> list[Tensor]:
    return [p.detach().clone() for n in networks for p in n.parameters()]


def changed(before: list[Tensor], after: list[Tensor]) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
