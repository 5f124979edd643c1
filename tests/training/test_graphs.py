"""Whole updates recorded and replayed, with a tape of operators in place of a CUDA graph."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from members import one_a_method
from tape import recorder
from torch import Tensor

from bench.train import TINY, Shape, Step, build, plan_at_demo
from pipeline import train
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import Draws
from pipeline.core.replay import ReplayError
from pipeline.errors import Interrupted
from pipeline.plan import Plan, Run
from pipeline.store.files import sha256_of
from pipeline.training.graphs import Updates
from pipeline.training.trainer import Trainer

PLAN = plan_at_demo()
NOT_WHOLE = {"adp", "gal"}  # by Adam
REFUSED = {  # in the middle of a recording
    "ccg": "further views of a batch",
    "dverge": "_local_scalar_dense",  # the epoch's depth, of the CPU: a GPU's graph allows it
}


@dataclass
class Learning:
    """A method and its updates, kernel by kernel or replayed."""

    method: Method
    updates: Updates

    @property
    def training(self) -> Training:
        """What is updated."""
        return self.updates.training

    def take(self, number: int, size: int = TINY.batch, *, checked: bool = False) -> Tensor:
        """An update on a batch of its own, at a rate of its own."""
        for network in self.training.networks:
            network.train()
        self.updates.set_rate(0.01 / (number + 1), self.training.recipe.momentum)
        return self.updates.take(self.method, batch_of(number, size), is_checked=checked)

    def state(self) -> list[Tensor]:
        """All that an update writes."""
        return list(self.updates._changed())


def prepare(name: str, shape: Shape = TINY, *, replayed: bool) -> Learning:
    step: Step = build(PLAN, name, shape)
    updates = Updates(step.training, "steps", never)
    if replayed:
        updates._record = recorder(updates._changed)
    updates._begin()
    return Learning(step.method, updates)


def never(work: Callable[[], Tensor]) -> Any:
    raise RuntimeError("launched as it comes")


def batch_of(number: int, size: int = TINY.batch) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(size, 3, TINY.size, TINY.size, generator=generator)
    labels = torch.randint(10, (size,), generator=generator)

    def augment(draws: Draws) -> Tensor:
        return (images + 0.1 * draws.uniform(*images.shape[1:])).clamp(0, 1)

    return Batch(images, labels, Draws(number, torch.arange(size)), augment)


@pytest.mark.parametrize("name", one_a_method())
def test_replayed_updates_have_the_bytes_of_those_kernel_by_kernel(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other images, draws and rates; a last batch of another shape; a second epoch; checks."""
    eager, replayed = prepare(name, replayed=False), prepare(name, replayed=True)
    for epoch in (1, 2):
        for learning in (eager, replayed):
            learning.training.epoch = epoch
            learning.updates.begin_epoch()
        for number in range(6):
            size = 5 if number == 5 else TINY.batch
            pair = [one.take(number, size, checked=number in (0, 4)) for one in (eager, replayed)]
            assert torch.equal(*pair)
        assert (replayed.updates.whole is not None) == (name not in NOT_WHOLE | set(REFUSED))
        assert not replayed.updates.whole or replayed.updates.count == 1

    for old, new in zip(eager.state(), replayed.state(), strict=True):
        assert torch.equal(old, new)
    said = capsys.readouterr().out
    assert ("Adam" in said) == (name in NOT_WHOLE)
    assert REFUSED.get(name, "") in said


def test_an_update_that_is_compared_and_differs_is_refused() -> None:
    learning = prepare("pgd_at", replayed=True)
    for number in range(3):
        learning.take(number)
    weight = next(learning.training.members[0].parameters())
    assert learning.updates.whole
    [recording] = learning.updates.whole._recordings.values()
    assert recording is not None
    launch = recording.launch

    def launch_worse() -> None:
        launch()
        with torch.no_grad():
            weight.add_(1e-6)

    recording.launch = launch_worse
    with pytest.raises(ReplayError, match="graphs to none"):
        learning.take(3, checked=True)


def test_a_loss_that_is_no_number_is_no_fault_of_the_replay() -> None:
    learning = prepare("pgd_at", replayed=True)
    for number in range(3):
        learning.take(number)
    with torch.no_grad():
        next(learning.training.members[0].parameters()).fill_(torch.nan)
    assert learning.take(3, checked=True).isnan()


@pytest.mark.parametrize(("began", "wanted"), [("steps", "crafting"), ("crafting", "steps")])
def test_a_training_goes_on_in_the_arithmetic_in_which_it_began(began: str, wanted: str) -> None:
    """Fused optimisers round otherwise: half a training of each would be neither."""
    step = build(PLAN, "pgd_at", TINY)
    Updates(step.training, began, never)
    [optimiser] = step.training.optimisers
    saved = copy.deepcopy(optimiser.state_dict())

    resumed = build(PLAN, "pgd_at", TINY)
    updates = Updates(resumed.training, wanted, never)
    resumed.training.optimisers[0].load_state_dict(saved)
    updates.go_on()
    updates.set_rate(0.5, 0.9)
    [group] = resumed.training.optimisers[0].param_groups
    assert bool(group["fused"]) == (began == "steps") and float(group["lr"]) == 0.5
    assert isinstance(group["lr"], Tensor) == (began == "steps")
    assert updates.whole is None and resumed.training.replays is not None


def fit(plan: Plan, run: Run, graphs: str, *stops: int) -> tuple[dict[str, str], Any]:
    """Train, interrupted after these numbers of batches; sums of what it made, and its run.json.

    Sums of weights; a tape plays the part of a CUDA graph.
    """

    def make(training: Training, _: str) -> Updates:
        updates = Updates(training, graphs)
        updates._record = recorder(updates._changed)
        updates._begin()
        return updates

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.trainer.Updates", make)
        for stop in stops:
            trainer = Trainer(plan, run, tiny.CPU, None)
            trainer.method = tiny.StopAfter(trainer.method, stop)
            with pytest.raises(Interrupted):
                trainer.fit()
        train.train(plan, run, tiny.CPU, None)
    about = json.loads((run.folder / "run.json").read_text())
    sums = {path.name: sha256_of(path) for path in run.folder.glob("*.safetensors")}
    shutil.rmtree(run.folder)
    return sums, about


@pytest.mark.parametrize("row, members, recipe", [
    ("pgd_at", 1, {"ema_decay": 0.9, "ema_start": 1}),
    ("aute", 2, {}),
])  # fmt: skip
def test_a_training_is_the_same_replayed_and_interrupted(
    tmp_path, monkeypatch, capsys, row, members, recipe
) -> None:
    params = tiny.changed(**recipe)
    params["scales"]["demo"]["recipe"]["train_images"] = 240  # eight batches
    plan = tiny.place(tmp_path, monkeypatch, params)
    run = tiny.one_run(plan, row, members)

    plain = fit(plan, run, "none")
    assert fit(plan, run, "crafting") == plain
    assert fit(plan, run, "crafting", 3, 5, 9) == plain
    assert "not as a CUDA graph" not in capsys.readouterr().out

    whole = fit(plan, run, "steps")
    assert fit(plan, run, "steps", 3, 5, 9) == whole
    assert whole[1]["flops"] == plain[1]["flops"]


def test_parts_of_a_batch_are_replayed_to_the_same_bytes(tmp_path, monkeypatch) -> None:
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(micro_batch=16))
    run = tiny.one_run(plan, "pgd_at")
    plain, replayed = (fit(plan, run, graphs) for graphs in ("none", "crafting"))
    assert plain == replayed
