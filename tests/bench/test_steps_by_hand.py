"""The loops by hand that our steps are timed against make the same updates."""

import functools
from dataclasses import replace
from itertools import count

import pytest
import torch
from projects import published
from torch import nn

from bench import cuts
from bench.train import BY_HAND, Shape, build, count_gflops
from pipeline.core.draws import Draws
from pipeline.plan import Plan

THIN = Shape(arch="thin", size=8, batch=4, members=3)


@functools.cache
def plan() -> Plan:
    """Entries as they are, of a thin net and few steps."""
    params = published() | {"scale": "demo"}
    params["archs"]["thin"] = {"base": "resnet20", "blocks": 1, "width": 4}
    crafting = {k: v for k, v in params["attacks"].items() if k.startswith("train_")}
    for entry in [*params["methods"].values(), *crafting.values()]:
        if "steps" in entry:
            entry["steps"] = 3
    return Plan(params)


@pytest.fixture
def start_draws(monkeypatch):
    """Numbers that are the same after every call of what this gives, whichever way they come."""
    calls = count()

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(next(calls)))

    def start() -> None:
        nonlocal calls
        calls = count()

    monkeypatch.setattr(Draws, "uniform", lambda self, *shape: noise(len(self), *shape))
    monkeypatch.setattr(Draws, "normal", lambda self, *shape: noise(len(self), *shape))
    monkeypatch.setattr(torch, "rand_like", lambda x: noise(*x.shape))
    monkeypatch.setattr(torch, "randn_like", lambda x: noise(*x.shape))
    return start


def weights(nets: list[nn.Module]) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


@pytest.mark.parametrize("name", BY_HAND)
def test_a_step_by_hand_is_our_step_for_no_less_work(name, start_draws):
    step = build(plan(), name, THIN)
    for network in [*step.training.networks, *step.training.parents.values()]:
        network.double()  # so that no sign hangs on rounding
    step.batch = replace(step.batch, images=step.batch.images.double())

    job, before = step.by_hand(), weights(step.training.networks)
    start_draws()
    ours = count_gflops(step.take)
    start_draws()
    lean = count_gflops(lambda: BY_HAND[name](job))
    mine, other = weights(step.training.networks), weights([*job.members, *job.assistants])
    assert (mine - before).abs().max() > 1e-5
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)
    assert ours <= lean * 1.0001


def test_every_method_has_a_loop_by_hand():
    entries = plan().entries
    assert {entries.entry("methods", name)[0] for name in entries.params["methods"]} == {*BY_HAND}


@pytest.mark.parametrize("is_cut", [True, False])
def test_cuts_are_measured_at_a_scale_that_cuts_no_attack_too(monkeypatch, is_cut):
    params = published() | {"scale": "paper"}
    params["scales"]["paper"].pop("attacks", None)
    monkeypatch.setattr(cuts, "read", lambda path: params)
    found = cuts.build_params(50, ["soe"], is_cut=is_cut)
    assert found["scales"]["paper"].get("attacks", {}) == {}
    assert found["scales"]["paper"]["tables"][cuts.TABLE]["rows"] == ["soe"]
