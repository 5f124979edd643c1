"""Training steps against the same steps by hand: `python -m bench.train [METHOD ...] [--tiny]`.

A line a method: milliseconds of processor time of our step and of the plainest correct loop on the
same nets (bench/lean), their ratio, and GFLOPs of both. Least of some runs, in turn, so that what
runs beside them weighs on both. Random images of CIFAR-10's shape; entries as at demo scale.
"""

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from bench.lean import joint, single
from bench.lean.job import Job
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.core.flops import FlopCount
from pipeline.errors import UserError
from pipeline.loading import models, registry
from pipeline.loading.images import Split
from pipeline.plan import Plan, Run
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.reader import read
from pipeline.training.graphs import Updates

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
BY_HAND = {
    name: loop
    for module in (single, joint)
    for name, loop in vars(module).items()
    if getattr(loop, "__annotations__", {}).get("job") is Job and name[0] != "_"
}


@dataclass(frozen=True)
class Shape:
    """Of what is trained: an entry of `archs:`, pixels a side, images a batch, members of an
    ensemble; `mode` replaces the entries' `attack_bn_mode` where it is not empty."""

    arch: str = "resnet8"
    size: int = 32
    batch: int = 64
    members: int = 3
    mode: str = ""


TINY = Shape(size=8, batch=8, members=2)


@dataclass
class Step:
    """Ours on its nets, and what a loop by hand is given."""

    method: Method
    training: Training
    batch: Batch
    attack: SimpleNamespace | None
    updates: Updates | None = None  # where something is replayed

    def take(self, is_checked: bool = False) -> Tensor:
        """One update as the trainer makes it; is_checked: see Updates."""
        for network in self.training.networks:
            network.train()
        if self.updates:
            return self.updates.take(self.method, self.batch, is_checked=is_checked)
        return self.method.step(self.training, self.batch)

    def by_hand(self) -> Job:
        """The same on copies of the nets and optimisers."""
        training, recipe = copy.deepcopy(self.training), self.training.recipe
        draw_depth = getattr(self.method, "draw_depth", None)
        return Job(
            members=training.members,
            optimisers=training.optimisers,
            images=self.batch.images,
            labels=self.batch.labels,
            values=SimpleNamespace(**vars(self.method)),
            attack=self.attack,
            mode=recipe.attack_bn_mode,
            progress=(training.epoch - 1) / recipe.epochs,
            depth=draw_depth(training) if draw_depth else 0,
            assistants=training.assistants,
            parents={name: list(parent.members) for name, parent in training.parents.items()},
        )


def plan_at_demo() -> Plan:
    return Plan({**read(ROOT / "params.yaml"), "scale": "demo"})


def build(plan: Plan, name: str, shape: Shape, where: torch.device = CPU) -> Step:
    """The last run of a row in the last epoch, where all terms of its loss are there."""
    run = _run(plan, name, shape.members)
    arch = plan.entries.exact_arch(shape.arch).spec
    spec = {**run.spec, "arch": arch, "archs": dict.fromkeys(run.spec.get("archs", {}), arch)}
    split = _draw_split(shape, where)
    method, members = models.method_of(spec), models.build_members(spec, split, where)

    recipe = models.recipe_of(spec)
    recipe = replace(recipe, lr=0.001, attack_bn_mode=shape.mode or recipe.attack_bn_mode)
    training = Training(
        members=members,
        ensemble=combine(spec["method"]["fields"]["combine"], members),
        recipe=recipe,
        attack=registry.build("attacks", spec["attack"]) if spec["attack"] else None,
        classes=len(split.names),
        parents={
            field: combine(victim.combine, _freeze(arch, victim.members, split, where)).eval()
            for field, victim in run.edges.items()
        },
        assistants=models.build_assistants(spec, split, where),
        epoch=recipe.epochs,
        images=len(split),
    )
    training.optimisers = method.setup(training)
    draws = Draws(0, torch.arange(len(split), device=where))
    attack = SimpleNamespace(**spec["attack"]["fields"]) if spec["attack"] else None
    return Step(method, training, Batch(split.floats(), split.labels, draws), attack)


def _run(plan: Plan, name: str, members: int) -> Run:
    setting = Setting("cifar10", "resnet20", "unified", members, 0)
    return plan.run(plan.name_victim(name, setting).elements[-1].run)


def _draw_split(shape: Shape, where: torch.device) -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = (shape.batch, 3, shape.size, shape.size)
    images = torch.randint(256, pixels, dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (shape.batch,), generator=generator)
    names = [str(i) for i in range(10)]
    return Split(images.to(where), labels.to(where), names, [0.5] * 3, [0.25] * 3)


def _freeze(arch: dict, count: int, split: Split, where: torch.device) -> list[nn.Module]:
    torch.manual_seed(1)
    channels, size = split.images.shape[1:3]
    made = [
        registry.build("archs", arch).build(
            classes=len(split.names), channels=channels, size=size, mean=split.mean, std=split.std
        )
        for _ in range(count)
    ]
    return [net.to(where).eval().requires_grad_(False) for net in made]


def count_gflops(step: Callable[[], object]) -> float:
    counter = FlopCount()
    with counter:
        step()
    return counter.total / 1e9


def race(steps: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Least milliseconds of processor time of each, in turn."""
    found: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, times in zip(steps, found, strict=True):
            begun = time.process_time()
            step()
            times.append(1000 * (time.process_time() - begun))
    return [min(times) for times in found]


def measure(plan: Plan, name: str, shape: Shape, repeats: int) -> dict[str, object]:
    """One line of the table."""
    step = build(plan, name, shape)
    job = step.by_hand()
    takes = [step.take, lambda: BY_HAND[name](job)]
    ours, lean = (count_gflops(take) for take in takes)  # the first of each warms up
    mine, other = race(takes, repeats)
    return {
        "method": name,
        "mode": step.training.recipe.attack_bn_mode,
        "members": len(step.training.members),
        "ours_ms": round(mine, 1),
        "lean_ms": round(other, 1),
        "ratio": round(mine / other, 2),
        "ours_gflops": round(ours, 2),
        "lean_gflops": round(lean, 2),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.train")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(BY_HAND))
    parser.add_argument("--tiny", action="store_true", help="8x8 images, one step: does it run")
    parser.add_argument("--arch", default=Shape.arch)
    parser.add_argument("--batch", type=int, default=Shape.batch)
    parser.add_argument("--mode", default="", choices=("eval", "train_update"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the table there")
    args = parser.parse_args()
    if wrong := set(args.methods) - set(BY_HAND):
        raise UserError(f"no loop by hand of {', '.join(wrong)}; there is: {', '.join(BY_HAND)}")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    shape = Shape(arch=args.arch, batch=args.batch, mode=args.mode)
    shape, repeats = (replace(TINY, mode=args.mode), 1) if args.tiny else (shape, args.repeats)
    where = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    print(f"{where}; {shape}; least of {repeats}")
    print("method    mode          members    ours ms    lean ms  ratio  GFLOP: ours     lean")

    plan, lines = plan_at_demo(), []
    for name in args.methods or BY_HAND:
        lines.append(line := measure(plan, name, shape, repeats))
        form = "{method:9s} {mode:12s} {members:8d} {ours_ms:10.1f} {lean_ms:10.1f} {ratio:6.2f}"
        print((form + " {ours_gflops:12.2f} {lean_gflops:8.2f}").format(**line), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": where, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
