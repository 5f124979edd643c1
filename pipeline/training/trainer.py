"""One training from its spec: epochs, validation, selection, resume.

Every draw is a function of (seed, epoch, image), so a resumed training ends in the same bytes.
"""

import json
import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import derive, seed_generators
from pipeline.core.ensemble import combine
from pipeline.core.flops import FlopCount
from pipeline.core.replay import ReplayError
from pipeline.errors import Interrupted, UserError
from pipeline.job.progress import Progress
from pipeline.job.signals import StopRequest
from pipeline.loading import fitting, models, registry
from pipeline.loading.augment import policy_in
from pipeline.loading.images import Split, batches, load_split, load_training
from pipeline.plan import Plan, Run, shared
from pipeline.store import checkpoint
from pipeline.store.checkpoint import Weights
from pipeline.store.scratch import throw_away, write_scratch
from pipeline.training.ema import Ema
from pipeline.training.graphs import Updates, choose_graphs
from pipeline.training.resume import find_origin, find_state, fits, has_snapshots, joined
from pipeline.training.schedules import learning_rate, momentum
from pipeline.training.validate import accuracies


class Trainer:
    """One training from its spec: epochs, validation, resume."""

    def __init__(self, plan: Plan, run: Run, where: torch.device, snapshots: int | None) -> None:
        spec = run.spec
        self.recipe = models.recipe_of(spec)
        self.run, self.device, self.snapshots = run, where, snapshots
        # An index may vouch for what lies beside a finished run, until its weights come out again.
        self.kept = run.work / "snapshots" if run.is_here() else run.snapshots
        images, held_out = self.recipe.train_images, self.recipe.held_out
        self.split = load_training(run.dataset, images, held_out, where)
        name = "test" if self.recipe.select == "best_test_as_published" else "validation"
        self.held_out: Split = load_split(run.dataset, name, where)
        self.method = models.method_of(spec)
        members = models.build_members(spec, self.split, where)
        if "init" in spec:
            fitting.start(members, spec["init"], run.files)

        self.training = Training(
            members=members,
            ensemble=combine(spec["method"]["fields"]["combine"], members),
            recipe=self.recipe,
            attack=self._attack(spec["attack"]),
            classes=len(self.split.names),
            parents={
                field: models.load_victim(plan, victim, self.split, where)
                for field, victim in run.edges.items()
            },
            attacks={k: self._attack(s) for k, s in spec.get("attacks", {}).items() if s},
            seed=spec["seed"],
            images=len(self.split),
        )
        self.plan, self.origin = plan, find_origin(plan, run, where)
        self.validation = self._attack(spec["validation_attack"])
        self.training.assistants = models.build_assistants(spec, self.split, where)
        self.training.optimisers = self.method.setup(self.training)
        self.updates = Updates(self.training, choose_graphs(plan, run, where))
        self.ema = Ema(members, self.recipe) if self.recipe.ema_decay else None
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, Weights] | None = None
        self.flops, self.seconds, self.seen = 0, 0.0, 0
        self.pause = 60 * plan.entries.resource("train", "save_minutes")
        self.saved = self.counted = time.monotonic()  # or begun
        self.loss = torch.zeros((), dtype=torch.float64, device=where)  # sum over the images seen
        self._resume()

    @staticmethod
    def _attack(spec: dict[str, Any] | None) -> Any:
        return registry.build("attacks", spec) if spec else None

    def fit(self) -> None:
        """Train to the last epoch; raises Interrupted after saving when a signal asks."""
        with StopRequest() as stop, Progress(self.run.id, self.recipe.epochs) as progress:
            while self.training.epoch <= self.recipe.epochs:
                self.counted = time.monotonic()
                self._epoch(stop)
                self._end_epoch(progress)
                self._count_time()
                is_last = self.training.epoch > self.recipe.epochs
                if is_last or time.monotonic() - self.saved >= self.pause:
                    self._save_state(0)
        self.updates.end()

    def _count_time(self) -> None:
        """Add what passed since the last count to the seconds of this training."""
        now = time.monotonic()
        self.seconds, self.counted = self.seconds + now - self.counted, now

    def _epoch(self, stop: StopRequest) -> None:
        training, seed = self.training, self.run.spec["seed"]
        size, epoch = self.recipe.batch_size, training.epoch
        count = -(-len(self.split) // size)  # rounded up
        for network in training.networks:
            network.train()

        self.updates.begin_epoch()
        policy = policy_in(epoch, self.recipe.augment, self.recipe.augment_after)
        loader = batches(self.split, self.run.dataset, size, seed, epoch, self.done, policy)
        for batch in loader:
            self._set_rate(self.done / count)
            self.loss += self._step(batch).double() * len(batch.labels)
            self.seen += len(batch.labels)
            if self.ema:
                self.ema.update(training.members, epoch)
            self.done += 1
            # With no pause at all, every epoch is saved and no batch.
            is_due = 0 < self.pause <= time.monotonic() - self.saved and self.done < count
            is_asked = stop.requested
            if is_asked or is_due:
                self._mean_loss()  # no state is saved after a loss that is no number
                self._count_time()
                self._save_state(self.done)
            if is_asked:
                raise Interrupted(f"{self.run.id}: saved in epoch {epoch}; run again to resume")

    def _step(self, batch: Batch) -> Tensor:
        """Update the members; the mean loss, on the device: nobody waits for it before the epoch's
        line. An epoch's FLOPs are those of its first batch."""
        counter = FlopCount()
        autocast = torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.recipe.precision == "bf16",
            cache_enabled=False,  # a cached weight would outlive its update within the step
        )
        # Dropout draws from torch's own stream, a user's mixing perhaps from numpy's, a random rule
        # from its own: the same at the same batch, whatever was resumed.
        moment = self.training.epoch, self.done
        seed_generators(derive(self.run.spec["seed"], "layers", *moment))
        for rule in (self.training.ensemble, *self.training.parents.values()):
            rule.reseed(derive(self.run.spec["seed"], "rule", *moment))
        # What is replayed cannot be counted, so the first batch never is; later it is compared.
        is_first = self.done == 0
        is_checked = is_first or self.done == len(self.split) // len(batch.labels) // 2
        with autocast, counter if is_first else nullcontext():
            loss = self._take(batch, is_checked)
        self.flops += round(counter.total * len(self.split) / len(batch.labels))
        return loss

    def _take(self, batch: Batch, is_checked: bool) -> Tensor:
        try:
            return self.updates.take(self.method, batch, is_checked=is_checked)
        except ReplayError:  # the epochs so far may rest on such updates
            throw_away(self.run.state, "may rest on such updates")
            raise

    def _set_rate(self, fraction: float) -> None:
        epoch = self.training.epoch
        rate = learning_rate(self.recipe, epoch, fraction)
        self.updates.set_rate(rate, momentum(self.recipe, epoch, fraction))

    def _end_epoch(self, progress: Progress) -> None:
        epoch, loss = self.training.epoch, self._mean_loss()
        row: dict[str, Any] = {
            "epoch": epoch,
            "lr": learning_rate(self.recipe, epoch, 0.0),
            "loss": loss,
            "val_clean": "",
            "val_robust": "",
        }

        weights = self.weights()
        # the loss was finite before the epoch's last update
        checkpoint.check_finite(weights, f"{self.run.id}: after epoch {epoch}", checkpoint.UNSTABLE)
        if self._is_validated(epoch):
            row |= self._validated(weights)
        self._select(row, weights)
        if self.snapshots is not None and epoch >= self.snapshots:
            checkpoint.save(self.kept / f"{epoch:04d}.safetensors", weights)

        self.history.append(row)
        progress.epoch(row)
        self.training.epoch, self.done, self.seen = epoch + 1, 0, 0
        self.loss.zero_()

    def _mean_loss(self) -> float:
        """Of the epoch so far; raises UserError unless it is a number."""
        loss, epoch = float(self.loss) / max(self.seen, 1), self.training.epoch
        if not math.isfinite(loss):
            raise UserError(
                f"{self.run.id}: the loss is {loss} in epoch {epoch}; {checkpoint.UNSTABLE}"
            )
        return loss

    def weights(self) -> Weights:
        """The members' own tensors, averaged ones once per-step averaging has begun."""
        if self.ema and self.ema.started(self.training.epoch):
            return self.ema.weights(self.training.members)
        return checkpoint.view(self.training.members)

    def _is_validated(self, epoch: int) -> bool:
        every = self.recipe.validate_every
        return every > 0 and (epoch % every == 0 or epoch == self.recipe.epochs)

    def _validated(self, weights: Weights) -> dict[str, float]:
        spec = self.run.spec
        members = models.build_members(spec, self.split, self.device)
        checkpoint.distribute(weights, members, self.run.folder)
        victim = combine(spec["method"]["fields"]["combine"], members)
        judge, most = self.validation, self.recipe.micro_batch
        clean, robust = accuracies(victim, self.held_out, judge, spec["seed"], most)
        return {"val_clean": clean, "val_robust": robust}

    def _select(self, row: dict[str, Any], weights: Weights) -> None:
        """Keep the best weights by the recipe's rule; the earliest of equals."""
        by_loss = self.recipe.select == "lowest_train_loss"
        if not by_loss and row["val_robust"] == "":
            return
        score = -row["loss"] if by_loss else row["val_robust"]
        if self.best is None or score > self.best[0]:
            self.best = (score, checkpoint.copied(weights))

    def _save_state(self, done: int) -> None:
        self.saved = time.monotonic()
        write_scratch(self.run.work / shared.ORIGIN, json.dumps(self.origin).encode())
        checkpoint.save_state(
            self.run.state,
            {
                "digest": self.run.id,
                "epoch": self.training.epoch,
                "done": done,
                "loss": [float(self.loss), self.seen],
                "networks": [m.state_dict() for m in self.training.networks],
                "optimisers": [o.state_dict() for o in self.training.optimisers],
                "memories": self.training.memories,
                "ema": self.ema.state() if self.ema else None,
                "history": self.history,
                "best": self.best,
                "flops": self.flops,
                "seconds": self.seconds,
                "snapshots": self.snapshots,
                "origin": self.origin,
            },
        )

    def _resume(self) -> None:
        self.done = 0
        state = find_state(self.plan, self.run, self.origin)
        if state is None:
            return
        batches = -(-len(self.split) // self.recipe.batch_size)
        if not fits(state, self.training, self.ema is not None, batches):
            throw_away(self.run.state)
            return
        is_done = state["epoch"] > self.recipe.epochs  # so that none is written again
        folders = [self.kept, *([self.run.snapshots] if is_done else [])]
        found = [folder for folder in folders if has_snapshots(folder, self.snapshots, state)]
        if not found:
            print(
                f"{self.run.id}: snapshots from epoch {self.snapshots} on are needed and some are "
                f"missing, so epochs 1 to {state['epoch'] - 1} are made again",
                flush=True,
            )
            return
        self.kept, self.origin = found[0], joined(state["origin"], self.origin)
        self.training.epoch, self.done = state["epoch"], state["done"]
        total, self.seen = state["loss"]
        self.loss.fill_(total)
        self.history = state["history"]
        self.best, self.flops, self.seconds = state["best"], state["flops"], state["seconds"]
        parts: list[Any] = [*self.training.networks, *self.training.optimisers]
        for part, saved in zip(parts, [*state["networks"], *state["optimisers"]], strict=True):
            part.load_state_dict(saved)
        self.updates.go_on()
        self.training.memories = {k: v.to(self.device) for k, v in state["memories"].items()}
        if self.ema:
            self.ema.restore(state["ema"])

    def last(self) -> Weights:
        """The final weights."""
        self.training.epoch = self.recipe.epochs
        return self.weights()
