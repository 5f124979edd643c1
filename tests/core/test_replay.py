"""Crafting recorded once and replayed, with a tape of operators in place of a CUDA graph."""

from typing import Any

import pytest
import torch
from tape import recorder
from torch import Tensor

from bench.train import TINY, Shape, Step, build, plan_at_demo
from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws
from pipeline.core.replay import MOST_RECORDINGS, ReplayError, Replays


def take(step: Step, number: int, size: int = TINY.batch) -> Tensor:
    """An update on a batch of its own; the loss."""
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(size, *step.batch.images.shape[1:], generator=generator)
    labels = torch.randint(10, (size,), generator=generator)
    batch = Batch(images, labels, Draws(number, torch.arange(size)))
    for network in step.training.networks:
        network.train()
    return step.method.step(step.training, batch)


def weights(step: Step) -> list[Tensor]:
    return [t for net in step.training.networks for t in net.state_dict().values()]


METHODS = {  # how many recordings each makes
    "pgd_at": 1,
    "trades": 1,
    "aute": 1,
    "soe": 1,
    "red": 1,
    "more": 1,
    "dverge_at": 2,
    "at_aka": 1,
    "cat_aka": 1,
    "ps_red": 1,
}


@pytest.mark.parametrize("name", METHODS)
def test_replayed_training_has_the_bytes_of_one_step_by_step(name: str) -> None:
    """Over updates of the weights that the recording reads, other images and other draws."""
    plan = plan_at_demo()
    eager, replayed = build(plan, name, TINY), build(plan, name, TINY)
    replayed.training.replays = Replays(record=recorder())

    for number in range(5):
        assert torch.equal(take(eager, number), take(replayed, number))
    for old, new in zip(weights(eager), weights(replayed), strict=True):
        assert torch.equal(old, new)

    assert replayed.training.replays.count == METHODS[name]


def test_another_shape_is_crafted_step_by_step() -> None:
    plan = plan_at_demo()
    eager, replayed = build(plan, "pgd_at", TINY), build(plan, "pgd_at", TINY)
    replayed.training.replays = Replays(record=recorder())
    for number, size in enumerate([8, 8, 5, 8, 5, 5, 8]):
        assert torch.equal(take(eager, number, size), take(replayed, number, size))
    [(_, recording)] = replayed.training.replays._recordings.items()
    assert recording is not None and len(recording.images) == 8


def test_a_checked_replay_that_differs_is_refused() -> None:
    step = build(plan_at_demo(), "pgd_at", TINY)
    step.training.replays = replays = Replays(record=recorder())
    for number in range(3):
        take(step, number)
    replays.is_checking = True
    take(step, 3)

    [recording] = replays._recordings.values()
    assert recording is not None
    recording.result.add_(1)
    recording.launch = lambda: None
    with pytest.raises(ReplayError, match="graphs to none"):
        take(step, 4)


def test_what_a_device_refuses_is_crafted_step_by_step_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_at_demo()
    eager, replayed = build(plan, "pgd_at", TINY), build(plan, "pgd_at", TINY)

    def refuse(craft: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    replayed.training.replays = Replays(record=refuse)
    for number in range(4):
        assert torch.equal(take(eager, number), take(replayed, number))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "crafting is launched kernel by kernel, not as a CUDA graph: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("mode", ["train_update"])
def test_what_updates_statistics_is_never_recorded(mode: str) -> None:
    step = build(plan_at_demo(), "pgd_at", Shape(size=8, batch=8, members=2, mode=mode))
    step.training.replays = replays = Replays(record=recorder())
    for number in range(3):
        take(step, number)
    assert replays.count == 0


def test_what_is_built_anew_at_every_call_fills_no_device() -> None:
    """A user's method may climb a model of its own at each batch."""
    replays, kept = Replays(record=recorder()), []
    images, labels = torch.rand(2, 1), torch.zeros(2, dtype=torch.int64)
    for number in range(100):
        kept.append(object())
        for _ in range(2):
            draws = Draws(number, torch.arange(2))
            replays.run("eval", (kept[-1],), lambda x, y, d: x + 1, images, labels, draws)
    assert replays.count == MOST_RECORDINGS


def test_numbers_that_python_baked_in_are_found_by_the_first_replay() -> None:
    """Draws that are not forked count their calls in Python: a recording has one call for ever."""
    replays = Replays(record=recorder())
    images, labels, held = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), (object(),)
    draws = Draws(0, torch.arange(2))
    for _ in range(2):
        replays.run("eval", held, lambda x, y, d: x + d.uniform(3), images, labels, draws)
    with pytest.raises(ReplayError):
        replays.run("eval", held, lambda x, y, d: x + d.uniform(3), images, labels, draws)


def test_what_takes_much_of_a_gpu_is_not_recorded_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.core.replay._measure", lambda work: (work(), 0.25))
    step = build(plan_at_demo(), "pgd_at", TINY)
    step.training.replays = replays = Replays(record=recorder())
    for number in range(4):
        take(step, number)
    assert replays.count == 0 and replays.is_refused
    assert capsys.readouterr().out == (
        "crafting is launched kernel by kernel, not as a CUDA graph: it takes 25% of the GPU's "
        "memory, more than 10%\n"
    )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_frozen_batch_statistics_are_replayed_too_and_half_precision(precision: Any) -> None:
    plan, shape = plan_at_demo(), Shape(size=8, batch=8, members=2, mode="train_frozen")
    eager, replayed = build(plan, "pgd_at", shape), build(plan, "pgd_at", shape)
    replayed.training.replays = Replays(record=recorder())
    half = precision == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, half, cache_enabled=False):
        for number in range(4):
            assert torch.equal(take(eager, number), take(replayed, number))
    assert replayed.training.replays.count == 1
