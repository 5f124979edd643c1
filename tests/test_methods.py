"""Every method: it says what it does in a class of its own, steps on a batch, and resumes."""

import pytest
import torch

from pipeline.method import Method
from pipeline.plan import schema
from pipeline.registry import component_class
from rig import PLAN, batch_of, method_of, training_of, weights

ENTRIES = sorted(PLAN.entries.params["methods"])


@pytest.mark.parametrize("name", schema.available("methods"))
def test_a_method_writes_loss_or_step(name: str) -> None:
    written = component_class("methods", name)
    assert issubclass(written, Method)
    assert written.loss is not Method.loss or written.step is not Method.step


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_takes_a_finite_step_that_moves_every_member(entry: str) -> None:
    method = method_of(entry, **({"steps": 2} if "aka" in entry else {}))
    training = training_of(method, members=2, epoch=50)
    before = weights(training.members)
    loss = method.step(training, batch_of())
    assert loss.shape == () and bool(loss.isfinite()) and not loss.requires_grad
    after = weights(training.members)
    for i in range(2):
        part = slice(i * len(before) // 2, (i + 1) * len(before) // 2)
        assert any(not torch.equal(a, b) for a, b in zip(before[part], after[part], strict=True))


@pytest.mark.parametrize("entry", ["soe", "red", "ps_red", "cat_aka", "at_aka", "aute"])
def test_the_same_seed_gives_the_same_step(entry: str) -> None:
    found = []
    for _ in range(2):
        method = method_of(entry)
        training = training_of(method, members=2)
        method.step(training, batch_of())
        found.append(torch.cat([w.flatten() for w in weights(training.networks)]))
    assert torch.equal(*found)
