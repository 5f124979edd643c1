"""Steps of training, processes that share a device, and AutoAttack."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu.report import Report
from bench.train import Shape, Step, build, plan_at_demo
from pipeline.attacks.autoattack import AutoAttack
from pipeline.core.draws import Draws
from pipeline.core.flops import FlopCount
from pipeline.core.replay import ReplayError
from pipeline.job import device
from pipeline.loading.images import load_split
from pipeline.plan import Dataset
from pipeline.plan.params.checks import GRAPHS
from pipeline.store.checkpoint import copied, view
from pipeline.training.graphs import Updates

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 50_000  # of an epoch
EPS = 8 / 255
SECONDS = 540  # of the ten minutes; the rest is the start
ROWS = ("aute", "soe", "red", "ps_red", "at_aka", "dverge_at")  # the papers', beside PGD-AT
ARCHS = ("resnet20", "resnet18", "preact_resnet18", "vgg16", "mobilenet_v2", "wrn34_10")


class Bench:
    """A machine, and how long each part may take on it."""

    def __init__(self, tiny: bool, graphs: Sequence[str] = GRAPHS) -> None:
        self.tiny, self.where = tiny, device.select("cpu" if tiny else "auto", 1 if tiny else 4)
        self.plan, self.graphs = plan_at_demo(), graphs[:1] if tiny else graphs
        self.batch, self.window = (4, 0.01) if tiny else (128, 1.5)
        self.started = time.monotonic()

    def left(self) -> float:
        """Seconds until no part may begin."""
        return SECONDS - (time.monotonic() - self.started)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.where.type == "cuda":
            torch.cuda.synchronize()

    def step(self, row: str, arch: str, members: int) -> Step:
        """A row's step on random images."""
        shape = Shape(arch, 32, self.batch, members)
        if self.tiny:
            shape = Shape("resnet8", 8, self.batch, min(members, 2))
        return build(self.plan, row, shape, self.where)

    def measure(
        self, row: str, arch: str, members: int, precision: str, graphs: str
    ) -> dict[str, Any]:
        """The time of a row's step."""
        return self.time(self.step(row, arch, members), precision, graphs)

    def record(self, step: Step, graphs: str) -> None:
        """Let a step replay what a training would; on a CPU there are no CUDA graphs."""
        if self.where.type == "cuda":
            step.updates = Updates(step.training, graphs)

    def cast(self, precision: str) -> torch.autocast:
        """Autocast as in a training."""
        half = precision == "bf16"
        return torch.autocast(self.where.type, torch.bfloat16, half, cache_enabled=False)

    def time(self, step: Step, precision: str, graphs: str) -> dict[str, Any]:
        """Milliseconds a step, the epoch that follows, most memory, and GFLOP/s."""
        self.record(step, graphs)
        counter = FlopCount()
        with self.cast(precision):
            with counter:
                step.take()
            if self.where.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = repeat(step.take, self.window, self.wait)
        found = {"ms": round(1000 * taken, 1), "gflops": round(counter.total / taken / 1e9)}
        found["epoch_s"] = round(taken * IMAGES / self.batch, 1)
        if self.where.type == "cuda":
            found["peak_mb"] = torch.cuda.max_memory_allocated() // 2**20
            found["held_mb"] = torch.cuda.max_memory_reserved() // 2**20  # with graphs' own
        if step.updates:
            found["recorded"] = step.updates.count
        return found

    def compare(self, row: str, arch: str, members: int, precision: str) -> dict[str, Any]:
        """Whether updates of two epochs make the same weights again, and with crafting replayed;
        what of `steps`, which round otherwise, was found equal as it ran."""
        made, found = [], dict[str, Any]()
        for graphs in ("none", *self.graphs):
            step = self.step(row, arch, members)
            self.record(step, graphs)
            with self.cast(precision):
                found[graphs] = self._take_epochs(step)
            if graphs != "steps":
                made.append(copied(view(step.training.networks)))
        first, *others = made
        equal = [torch.equal(first[name], other[name]) for other in others for name in first]
        return {**found, "equal": all(equal)}

    def _take_epochs(self, step: Step) -> str:
        """Two epochs of four updates, the last of each done in both ways where it is replayed."""
        for _ in range(2):
            step.training.epoch += 1
            if step.updates:
                step.updates.begin_epoch()
            for number in range(4):
                try:
                    step.take(is_checked=number == 3)
                except ReplayError:
                    return "differs"
        return f"{step.updates.count} recorded" if step.updates else "not replayed"


def repeat(step: Callable[[], object], seconds: float, wait: Callable[[], None]) -> float:
    """Seconds a call, of as many as fit after two that warm up; at least two."""
    for _ in range(2):
        step()
    wait()
    begun, calls = time.monotonic(), 0
    while calls < 2 or time.monotonic() - begun < seconds:
        step()
        calls += 1
        wait()
    return (time.monotonic() - begun) / calls


def measure_steps(bench: Bench, report: Report) -> None:
    """The steps that hours are made of, kernel by kernel and replayed."""
    rows = [
        ("pgd_at", "resnet18", 1),
        ("pgd_at", "wrn34_10", 1),
        ("pgd_at", "resnet20", 1),
        ("aute", "resnet20", 3),
        ("red", "resnet18", 3),
        ("at_aka", "resnet20", 1),
    ]
    for row, arch, members in rows:
        # bf16 once, where a CPU without it takes seconds a step
        for precision in ("fp32", "bf16") if not bench.tiny or row == "red" else ("fp32",):
            for graphs in bench.graphs:
                measure = partial(bench.measure, row, arch, members, precision, graphs)
                how = precision if graphs == "none" else f"{precision} {graphs}"
                report.attempt(f"{row} {arch} x{members} {how}", measure)


def compare_bytes(bench: Bench, report: Report) -> None:
    """Whether steps repeat to the byte, kernel by kernel and replayed: every arch and kind."""
    large = "wrn34_10"  # seconds a step in fp32
    rows = [("pgd_at", arch, 1, "bf16" if arch == large else "fp32") for arch in ARCHS]
    rows += [(row, "resnet20", 3, "bf16") for row in ROWS]
    for row in rows[:1] if bench.tiny else rows:
        report.attempt(f"same bytes {row[0]} {row[1]} {row[3]}", partial(bench.compare, *row))


def measure_sharing(bench: Bench, report: Report) -> None:
    """Steps a second of several processes on one device, together: what `runs_per_gpu` gains."""
    arch, alone = "resnet20", 0.0
    for count in (2,) if bench.tiny else (1, 2, 4, 8):
        command = [sys.executable, "-m", "bench.gpu", "--share", arch]
        command += ["--tiny"] if bench.tiny else []
        shared = {**os.environ, device.GPU: "0"}  # no lease: they are meant to share
        workers = [
            subprocess.Popen(command, cwd=ROOT, env=shared, stdin=-1, stdout=-1, text=True)
            for _ in range(count)
        ]
        for worker in workers:
            assert worker.stdout and worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        rates = [1 / float(worker.communicate()[0]) for worker in workers]
        alone = alone or rates[0]
        gain = round(sum(rates) / alone, 2)
        report.add(f"{count} runs on one device {arch}", steps_s=round(sum(rates), 2), gain=gain)


def share(bench: Bench, arch: str) -> None:
    """One of those processes: seconds a step while the others run."""
    step = bench.step("pgd_at", arch, 1)
    bench.record(step, bench.plan.entries.graphs)
    for _ in range(3):
        step.take()
    bench.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    print(repeat(step.take, bench.window, bench.wait))


def measure_autoattack(bench: Bench, report: Report, data: Dataset) -> None:
    """500 test images against a net that trained for a while, so that some stay robust."""
    split = load_split(data, "train", bench.where)
    step = bench.step("pgd_at", "resnet18", 1)
    step.training.optimisers[0].param_groups[0]["lr"] = 0.05
    begun, number = time.monotonic(), 0
    while number < 2 or time.monotonic() - begun < (0 if bench.tiny else 45):
        rows = torch.arange(number * bench.batch, (number + 1) * bench.batch) % len(split)
        rows, number = rows.to(bench.where), number + 1
        draws = Draws(number, rows)
        step.batch = replace(
            step.batch, images=split.floats(rows), labels=split.labels[rows], draws=draws
        )
        step.take()

    test, few = load_split(data, "test", bench.where), 4 if bench.tiny else 500
    images, labels = test.floats(slice(few)), test.labels[:few]
    setting = dict(version="standard", eps=EPS, restarts=1, rho=0.75, eot=1)
    fab = dict(alpha_max=0.1, eta=1.05, beta=0.9, p_init=0.8)
    budget = (
        dict(steps=2, targets=2, queries=4)
        if bench.tiny
        else dict(steps=100, targets=9, queries=5000)
    )
    net, draws = step.training.members[0].eval(), Draws(0, torch.arange(few, device=bench.where))
    begun = time.monotonic()
    moved = AutoAttack(**setting, **fab, **budget)(net, images, labels, draws)
    bench.wait()
    seconds = round(time.monotonic() - begun, 1)
    with torch.no_grad():
        clean, robust = ((net(x).argmax(1) == labels).sum().item() for x in (images, moved))
    report.add(f"autoattack of {few}", seconds=seconds, steps=number, clean=clean, robust=robust)
