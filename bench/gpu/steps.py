"""Steps of training, processes that share a device, and AutoAttack."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
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
from pipeline.job import device
from pipeline.loading.images import load_split
from pipeline.plan import Dataset

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 50_000  # of an epoch
EPS = 8 / 255
SECONDS = 540  # of the ten minutes; the rest is the start
ARCHS = ("resnet20", "resnet18", "preact_resnet18", "vgg16", "mobilenet_v2", "wrn34_10")


class Bench:
    """A machine, and how long each part may take on it."""

    def __init__(self, tiny: bool) -> None:
        self.tiny, self.where = tiny, device.select("cpu" if tiny else "auto", 1 if tiny else 4)
        self.plan = plan_at_demo()
        self.batch, self.window = (4, 0.01) if tiny else (128, 6.0)
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

    def measure(self, row: str, arch: str, members: int, precision: str) -> dict[str, Any]:
        """The time of a row's step."""
        return self.time(self.step(row, arch, members), precision)

    def time(self, step: Step, precision: str) -> dict[str, Any]:
        """Milliseconds a step, the epoch that follows, most memory, and GFLOP/s."""
        half = precision == "bf16"
        cast = torch.autocast(self.where.type, torch.bfloat16, half, cache_enabled=False)
        counter = FlopCount()
        with cast:
            with counter:
                step.take()
            if self.where.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = repeat(step.take, self.window, self.wait)
        found = {"ms": round(1000 * taken, 1), "gflops": round(counter.total / taken / 1e9)}
        found["epoch_s"] = round(taken * IMAGES / self.batch, 1)
        if self.where.type == "cuda":
            found["peak_mb"] = torch.cuda.max_memory_allocated() // 2**20
        return found


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
    """The four steps that hours are made of, then every arch's memory."""
    rows = [
        ("pgd_at", "resnet18", 1),
        ("pgd_at", "wrn34_10", 1),
        ("aute", "resnet20", 3),
        ("red", "resnet18", 3),
    ]
    for row, arch, members in rows:
        # bf16 once, where a CPU without it takes seconds a step
        for precision in ("fp32", "bf16") if not bench.tiny or row == "red" else ("fp32",):
            what = f"{row} {arch} x{members} {precision}"
            report.attempt(what, partial(bench.measure, row, arch, members, precision))
    bench.window = 0.01
    for arch in ARCHS[:1] if bench.tiny else ARCHS:
        report.attempt(f"memory {arch}", partial(bench.measure, "pgd_at", arch, 1, "fp32"))


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
