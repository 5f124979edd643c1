"""Networks and victims from their specs and weights."""

import json
from pathlib import Path

import torch
from torch import nn

from pipeline import checkpoint, registry
from pipeline.draws import derive
from pipeline.ensemble import Combination, Scaled, combine
from pipeline.images import Split
from pipeline.method import Method
from pipeline.plan import Plan, Run, Victim
from pipeline.plan.values import Entry
from pipeline.recipe import Recipe


def method_of(spec: Entry) -> Method:
    """The method of a training's spec."""
    method: Method = registry.build("methods", spec["method"])
    return method


def recipe_of(spec: Entry) -> Recipe:
    """The recipe of a training's spec, which holds its attacks apart, resolved."""
    return Recipe(**{**spec["recipe"], "attack": "none", "validation_attack": "none"})


def build_members(spec: Entry, split: Split, device: torch.device) -> list[nn.Module]:
    """Fresh members of a training; initial weights are a function of (seed, member)."""
    arch = registry.build("archs", spec["arch"])
    _, channels, size, _ = split.images.shape
    normalise = spec["recipe"]["normalise"]
    mean = split.mean if normalise else [0.0] * channels
    std = split.std if normalise else [1.0] * channels

    def make(index: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(spec["seed"], "init", index))
            network: nn.Module = arch.build(
                classes=len(split.names), channels=channels, size=size, mean=mean, std=std
            )
        return network

    members = method_of(spec).build(make, spec["members"])
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    return [m.to(device=device, memory_format=layout) for m in members]  # type: ignore[call-overload]


def training_spec(plan: Plan, run: Run) -> Entry:
    """The spec of the training behind a run (an average's is its trajectory's)."""
    while run.stage == "average":
        run = plan.run(run.parents[0])
    return run.spec


def load_members(
    plan: Plan, run: Run, which: str, split: Split, device: torch.device
) -> list[nn.Module]:
    """The trained members of a run at checkpoint `last` or `best`, frozen in evaluation mode."""
    members = build_members(training_spec(plan, run), split, device)
    name = "weights" if which == "last" else "best"
    checkpoint.load(run.folder / f"{name}.safetensors", members)
    for member in members:
        member.eval().requires_grad_(False)
    return members


def load_victim(plan: Plan, victim: Victim, split: Split, device: torch.device) -> Combination:
    """A victim, frozen in evaluation mode."""
    members = [
        member
        for element in victim.elements
        for member in load_members(plan, plan.run(element.run), element.checkpoint, split, device)
    ]
    if victim.logit_scale != 1:
        members = [Scaled(m, victim.logit_scale) for m in members]
    return combine(victim.combine, members).eval()


def inherited_flops(parents: list[Path]) -> dict[str, int]:
    """Training FLOPs of parent runs and theirs, each run once."""
    flops: dict[str, int] = {}
    for folder in parents:
        details = json.loads((folder / "run.json").read_text())
        flops |= {details["id"]: details["flops"], **details["inherited"]}
    return flops
