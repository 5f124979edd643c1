"""Whether a resume state is one that a training can go on from: what it was made of, its epoch,
and every shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.contracts.training import Training
from pipeline.job.device import MACHINE, describe
from pipeline.loading.sets import weights_of
from pipeline.plan import Plan, Run, shared
from pipeline.store import checkpoint
from pipeline.store.checkpoint import view
from pipeline.store.records import rests_on
from pipeline.store.scratch import set_aside

Shapes = dict[str, torch.Size]
Origin = dict[str, Any]  # shared, rests_on, and by key of MACHINE a list: it may have moved
ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # state as their weights are


def find_origin(plan: Plan, run: Run, where: torch.device) -> Origin:
    """What a training's bytes follow from that its name does not say: the shared code, the sums of
    its parents' weights, the machine."""
    weights = dict[str, str]()
    for victim in run.edges.values():
        weights |= weights_of(plan, victim)
    machine = describe(where)
    kinds = {key: [machine[key]] for key in MACHINE}
    return {
        "shared": shared.code_of(plan, run),
        "rests_on": rests_on({"weights": weights}),
        **kinds,
    }


def why_other(plan: Plan, before: Origin, now: Origin) -> str:
    """What of a state's origin is other than today's; empty where a training may go on from it.

    On another machine it may, which `joined` then says.
    """
    if changed := shared.list_changed(plan, "train", before["shared"]):
        files = sorted({name.partition(":")[0] for name in changed})
        return f"was saved by other shared code (pipeline/{', pipeline/'.join(files[:3])})"
    for parent, sha256 in now["rests_on"].items():
        if before["rests_on"].get(parent) != sha256:
            return f"was saved beside other weights of {parent}"
    return ""


def find_state(plan: Plan, run: Run, now: Origin) -> dict[str, Any] | None:
    """The state that a training goes on from: the last, or the furthest of those that were set
    aside and fit again, as after an undone edit; None where it begins anew."""
    state = checkpoint.load_state(run.state, run.id)
    if state is not None:
        why = why_other(plan, state["origin"], now)
        if not why:
            return state
        set_aside(run.state, why)

    kept = {}
    for path in sorted(run.work.glob(f"{run.state.name}.*")):
        state = checkpoint.load_kept(path, run.id)
        if state is not None and not why_other(plan, state["origin"], now):
            kept[state["epoch"], state["done"]] = path, state
    if not kept:
        return None
    path, state = kept[max(kept)]
    path.replace(run.state)
    print(f"{path}: was set aside and fits again, so this goes on from it", flush=True)
    return state


def joined(before: Origin, now: Origin) -> Origin:
    """Of a training that was begun at `before` and goes on now: all its machines, in order."""
    kinds = {key: list(dict.fromkeys([*before[key], *now[key]])) for key in MACHINE}
    return {**now, **kinds}


def fits(state: Mapping[str, Any], training: Training, averages: bool, batches: int) -> bool:
    """Whether it was saved by this training, after `done` of so many batches of its epoch."""
    epochs, epoch = training.recipe.epochs, state["epoch"]
    if not 1 <= epoch <= epochs + 1 or not 0 <= state["done"] <= batches:
        return False
    if len(state["history"]) != epoch - 1 or not _is_loss(state["loss"]):
        return False

    # A state with per-step averages fits only a training that keeps them, and the other way round.
    if averages is not _is_average(state["ema"], training):
        return False
    remembered = _shapes(state["memories"])
    if remembered is None or any(s[:1] != (training.images,) for s in remembered.values()):
        return False
    best = state["best"]
    if best is not None and _shapes(best[-1]) != _shapes(view(training.members)):
        return False

    expected = [_shapes(network.state_dict()) for network in training.networks]
    if [_shapes(saved) for saved in state["networks"]] != expected:
        return False

    # Not strict: unequal counts are an answer here, no fault of the program.
    pairs = zip(training.optimisers, state["optimisers"], strict=False)
    same = len(training.optimisers) == len(state["optimisers"])
    return same and all(_suits(optimiser, saved) for optimiser, saved in pairs)


def has_snapshots(folder: Path, first: int | None, state: Mapping[str, Any]) -> bool:
    """Whether a trajectory to be kept from epoch `first` on has every snapshot up to a state's."""
    if first is None or state["epoch"] <= first:
        return True
    if state["snapshots"] is None or state["snapshots"] > first:
        return False
    return all((folder / f"{e:04d}.safetensors").exists() for e in range(first, state["epoch"]))


def _shapes(named: Any) -> Shapes | None:
    """Shapes of tensors by name; None of what is no mapping of tensors."""
    if not isinstance(named, Mapping) or not all(isinstance(v, Tensor) for v in named.values()):
        return None
    return {name: value.shape for name, value in named.items()}


def _is_loss(loss: Sequence[Any]) -> bool:
    return len(loss) == 2 and all(isinstance(part, int | float) for part in loss)


def _is_average(ema: Any, training: Training) -> bool:
    """Whether a per-step average is of the members' tensors, or has not begun."""
    if not isinstance(ema, dict) or set(ema) != {"average", "updates"}:
        return False
    if ema["average"] is None:
        return True

    saved = [_shapes(values) for values in ema["average"]]
    expected = [_shapes(member.state_dict()) for member in training.members]
    pairs = zip(saved, expected, strict=False)
    # A subset: buffers are in it only where the recipe averages them.
    return len(saved) == len(expected) and all(
        a is not None and b is not None and a.items() <= b.items() for a, b in pairs
    )


def _suits(optimiser: torch.optim.Optimizer, saved: Any) -> bool:
    """Whether groups are as large, and what is kept of a parameter can be of it."""
    if not isinstance(saved, dict) or set(saved) != {"state", "param_groups"}:
        return False

    own = optimiser.state_dict()["param_groups"]
    groups = [group["params"] for group in saved["param_groups"]]
    if groups != [group["params"] for group in own]:
        return False

    # Others may keep what they like: Adafactor sums of rows, 8-bit Adam blocks.
    if not isinstance(optimiser, ELEMENTWISE):
        return True

    # torch numbers parameters across all groups, in order.
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    kept = [
        (parameters[i].shape, value) for i, of in saved["state"].items() for value in of.values()
    ]
    # Scalars, such as Adam's step, have shape ().
    return all(v.shape in (shape, ()) for shape, v in kept if isinstance(v, Tensor))
