"""Methods under autocast, as scales `short` and `lunch` train: every loss and weight a number."""

import pytest
import torch
from members import one_a_method

from bench.train import TINY, build, plan_at_demo

PLAN = plan_at_demo()


@pytest.mark.parametrize("name", one_a_method())
def test_a_method_learns_in_half_precision(name: str) -> None:
    step = build(PLAN, name, TINY)
    before = [p.clone() for net in step.training.networks for p in net.parameters()]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        losses = [step.take() for _ in range(2)]
    assert torch.stack(losses).isfinite().all()

    after = [p for net in step.training.networks for p in net.parameters()]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after)
    moved = [not torch.equal(p, q) for p, q in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2
