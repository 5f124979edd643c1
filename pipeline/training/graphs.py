"""What a training on a GPU replays: its crafting, or whole updates (pipeline/core/replay.py).

`resources.train.graphs` says which. Whole updates are recorded anew in every epoch, whose number
methods may look at, and hold the optimisers' steps too. These are fused, which rounds otherwise
than the usual ones, with rates that lie on the device; a training goes on as it began.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline.contracts.method import Method, learn
from pipeline.contracts.training import Batch, Training, has_dropout
from pipeline.core.draws import Draws
from pipeline.core.replay import Recorder, Replays
from pipeline.plan import Plan, Run
from pipeline.store.sums import beside, read_mapping


def choose_graphs(plan: Plan, run: Run, where: torch.device) -> str:
    """What a training replays; of a finished run, which is made again, with the optimiser's step
    that it had."""
    graphs = plan.entries.graphs if where.type == "cuda" else "none"
    was_fused = read_mapping(beside(run.weights)).get("fused") if run.is_here() else None
    if graphs == "none" or was_fused is None or was_fused is (graphs == "steps"):
        return graphs
    return "steps" if was_fused else "crafting"


class Updates:
    """Updates of a training, replayed as `graphs` says."""

    def __init__(self, training: Training, graphs: str, record: Recorder | None = None) -> None:
        self.training, self.graphs, self._record = training, graphs, record
        self.is_fused = False
        self.whole: Replays | None = None
        if graphs == "steps":
            why = _why_not_whole(training)
            if why:
                print(f"graphs: steps: crafting alone is replayed, since {why}", flush=True)
            self.is_fused = not why
        self._begin()

    def _begin(self) -> None:
        """Place rates, and record from now on what is to be recorded."""
        self.whole, self.training.replays = None, None
        if self.is_fused:
            self._fuse()
        else:
            for group in self._groups():
                group["lr"] = float(group["lr"])
                if group.get("fused"):
                    group["fused"] = None

        if self.graphs == "steps" and self.is_fused:
            self.whole = Replays("an update", self._changed, self._record)
        elif self.graphs != "none":
            self.training.replays = Replays(record=self._record)

    def _fuse(self) -> None:
        where = next(self.training.members[0].parameters()).device
        for group in self._groups():
            group["fused"], group["lr"] = True, torch.tensor(float(group["lr"]), device=where)

    def go_on(self) -> None:
        """With loaded optimisers, in the arithmetic that they had."""
        self.is_fused = any(group.get("fused") for group in self._groups())
        self._begin()

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return sum(r.count for r in (self.whole, self.training.replays) if r)

    def set_rate(self, rate: float, momentum: float) -> None:
        """Of every optimiser, for the next update."""
        for group in self._groups():
            if self.is_fused:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
            group["momentum"] = momentum

    def begin_epoch(self) -> None:
        """Nothing of another epoch is replayed whole."""
        if self.whole:
            self.whole.forget()

    def take(self, method: Method, batch: Batch, *, is_checked: bool) -> Tensor:
        """One update; the mean loss. is_checked: done in both ways where it is replayed, which is
        ReplayError where they differ."""
        for replays in (self.whole, self.training.replays):
            if replays:
                replays.is_checking = is_checked
        if self.whole is None:
            return learn(method, self.training, batch)

        def update(images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
            # A further view is made of the batch's own pixels, which a recording has not; nor may
            # it add to gradients that lie where no recording put them.
            view = batch.augment if images is batch.images else batch.augment and _refuse
            for optimiser in self.training.optimisers:
                optimiser.zero_grad(set_to_none=True)
            return learn(method, self.training, Batch(images, labels, draws, view))

        held = (method, self.training)
        loss = self.whole.run("update", held, update, batch.images, batch.labels, batch.draws)
        if self.whole.is_refused:  # which it has said; its crafting may do
            self.whole, self.training.replays = None, Replays(record=self._record)
        return loss

    def end(self) -> None:
        """Let go of what is recorded."""
        self.whole = self.training.replays = None

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimiser in self.training.optimisers:
            yield from optimiser.param_groups

    def _changed(self) -> Iterator[Tensor]:
        """All that an update writes, as tensors without gradients."""
        for network in self.training.networks:
            yield from (weight.detach() for weight in network.parameters())
            yield from network.buffers()
        for optimiser in self.training.optimisers:
            for state in optimiser.state.values():
                yield from (value for value in state.values() if isinstance(value, Tensor))
        yield from self.training.memories.values()


def _why_not_whole(training: Training) -> str:
    """What of an update a graph does not hold; empty where there is nothing."""
    if has_dropout([*training.networks, *training.parents.values()]):
        return "dropout is drawn by torch"
    if training.recipe.schedule == "one_cycle":
        return "one_cycle moves the momentum at every batch"
    if any(type(optimiser) is not torch.optim.SGD for optimiser in training.optimisers):
        return "Adam's step is a number of Python's"
    return ""


def _refuse(draws: Draws) -> Tensor:
    raise RuntimeError("the method draws further views of a batch")
