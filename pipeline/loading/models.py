"""Networks and victims from their specs and weights."""

from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from pipeline.contracts.maker import Maker
from pipeline.contracts.method import Method
from pipeline.contracts.recipe import Recipe
from pipeline.core.ensemble import Combination, Scaled, combine
from pipeline.core.layers import Net
from pipeline.loading import modules, registry
from pipeline.loading.images import Split
from pipeline.plan import Plan, Run, Victim
from pipeline.plan.params.values import Entry
from pipeline.store import checkpoint
from pipeline.store.details import details


def method_of(spec: Entry) -> Method:
    """The method of a training's spec."""
    method: Method = registry.build("methods", spec["method"])
    return method


def recipe_of(spec: Entry) -> Recipe:
    """The recipe of a training's spec, which holds its attacks apart, resolved."""
    return Recipe(**{**spec["recipe"], "attack": "none", "validation_attack": "none"})


def build_members(spec: Entry, split: Split, device: torch.device) -> list[nn.Module]:
    """Fresh members of a training; initial weights are a function of (seed, member)."""
    return _place(method_of(spec).build(_maker(spec, split), spec["members"]), device)


def build_assistants(spec: Entry, split: Split, device: torch.device) -> list[nn.Module]:
    """Fresh networks that train along with the members, such as teachers."""
    return _place(method_of(spec).assist(_maker(spec, split)), device)


def _maker(spec: Entry, split: Split) -> Maker:
    _, channels, size, _ = split.images.shape
    normalise = spec["recipe"]["normalise"]
    mean = split.mean if normalise else [0.0] * channels
    std = split.std if normalise else [1.0] * channels
    given = spec["recipe"].get("input_std", [])  # a paper's, of its RGB images
    if normalise and len(given) == channels:
        std = given
    if "statistics" in spec:  # weights from elsewhere come with their own
        mean, std = spec["statistics"]["mean"], spec["statistics"]["std"]

    def network(arch_spec: Entry) -> Net:
        if "model" in arch_spec:  # a user's own has no taps, and adopting asks for none
            return cast(Net, modules.build(arch_spec, channels, mean, std))
        arch = registry.build("archs", arch_spec)
        net: Net = arch.build(
            classes=len(split.names), channels=channels, size=size, mean=mean, std=std
        )
        return net

    archs = {field: partial(network, named) for field, named in spec.get("archs", {}).items()}
    return Maker(spec["seed"], partial(network, spec["arch"]), archs)


def _place(networks: list[nn.Module], device: torch.device) -> list[nn.Module]:
    # NHWC is faster on a CPU too, but there torch 2.13 writes beyond the weight gradient of a 1x1
    # convolution of stride 2 from 4 to 8 channels (segmentation fault)
    placed = []
    for network in networks:
        is_ours = not getattr(network, "keeps_layout", False)
        is_fast = device.type == "cuda" and is_ours
        layout = torch.channels_last if is_fast else torch.contiguous_format
        placed.append(network.to(device=device, memory_format=layout))  # type: ignore[call-overload]
    return placed


def load_members(
    plan: Plan, run: Run, which: str, split: Split, device: torch.device
) -> list[nn.Module]:
    """The trained members of a run at checkpoint `last` or `best`, frozen in evaluation mode.

    Raises UserError where a user's own network gives no logits of the split's classes.
    """
    spec = plan.training(run).spec
    members = build_members(spec, split, device)
    checkpoint.load(run.checkpoint(which), members)
    for member in members:
        member.eval().requires_grad_(False)
        if isinstance(member, modules.Foreign):  # here, where its device is the one it is used on
            model, few = spec["arch"]["model"], split.floats(slice(2))
            modules.check_scores(member, model, few, run.dataset.name, len(split.names))
    return members


def load_victim(plan: Plan, victim: Victim, split: Split, device: torch.device) -> Combination:
    """A victim, frozen in evaluation mode."""
    members = [
        member
        for element in victim.elements
        for member in load_members(plan, plan.run(element.run), element.checkpoint, split, device)
    ]

    if victim.member is not None:
        members = [members[victim.member]]
    if victim.logit_scale != 1:
        members = [Scaled(m, victim.logit_scale) for m in members]

    combined = combine(victim.combine, members).eval()
    combined.name = victim.id
    return combined


def inherited_flops(parents: list[Path]) -> dict[str, int]:
    """Training FLOPs of parent runs and theirs, each run once."""
    flops: dict[str, int] = {}
    for folder in parents:
        run = details(folder)
        flops |= {run["id"]: run["flops"], **run["inherited"]}
    return flops
