"""Weights as safetensors, members numbered; resume states apart and never shared."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.store import manifest
from pipeline.store.files import (
    Content,
    fetched_from,
    load_safetensors,
    safetensors,
    write_atomic,
)
from pipeline.store.scratch import open_scratch, set_aside, throw_away, write_scratch

Weights = dict[str, Tensor]

UNSTABLE = (
    "lower lr in params.yaml (recipes, or the method's own); if no lr helps, look at the data's "
    "mean and std, the weights of the method's terms, precision bf16, and files it starts from"
)
STATE: dict[str, tuple[type, ...]] = {  # what a training keeps to go on from
    "digest": (str,),
    "epoch": (int,),
    "done": (int,),
    "loss": (list,),
    "networks": (list,),
    "optimisers": (list,),
    "memories": (dict,),
    "ema": (dict, type(None)),
    "history": (list,),
    "best": (tuple, type(None)),
    "flops": (int,),
    "seconds": (float,),
    "snapshots": (int, type(None)),
    "origin": (dict,),
}


def view(members: Sequence[nn.Module]) -> Weights:
    """State of all members in one mapping, `<member>.<name>`: their own tensors, no copies."""
    return {
        f"{i}.{name}": value.detach()
        for i, member in enumerate(members)
        for name, value in member.state_dict().items()
    }


def copied(weights: Weights) -> Weights:
    """On the CPU, and to keep: training goes on to change a member's own tensors."""
    return {name: value.to("cpu", copy=True).contiguous() for name, value in weights.items()}


def distribute(weights: Weights, members: Sequence[nn.Module], path: Path) -> None:
    """Load weights named as by `view`; raises UserError when they are of another shape or net."""
    expected = {name: value.shape for name, value in view(members).items()}
    given = {name: value.shape for name, value in weights.items()}
    if expected != given:
        # The first name that one side lacks or has in another shape.
        wrong = sorted(set(expected.items()) ^ set(given.items()), key=str)[0][0]
        raise UserError(f"{path}: weights do not fit this arch (tensor {wrong}); delete and re-run")

    for i, member in enumerate(members):
        names = member.state_dict()
        member.load_state_dict({n: weights[f"{i}.{n}"] for n in names})


def check_finite(weights: Weights, where: str, remedy: str) -> None:
    """Raise UserError on a tensor that is not finite, or a variance below 0, by its name."""
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{where}: tensor {name} is not finite; {remedy}")
        if name.endswith("running_var") and value.numel() and float(value.min()) < 0:
            raise UserError(f"{where}: tensor {name} is a variance and below 0; {remedy}")


def save(path: Path, weights: Weights) -> None:
    """Write weights atomically, if they are numbers."""
    write_atomic(path, content(path, weights))


def content(path: Path, weights: Weights) -> Content:
    """What writes weights into the file of that name; raises UserError unless they are numbers."""
    check_finite(weights, f"{path}: is not written", UNSTABLE)
    return safetensors(weights, {"format": "pt"})


def load(path: Path, members: Sequence[nn.Module]) -> None:
    """Read weights into members, after the manifest has vouched for them."""
    manifest.verify(path)
    remedy = f"pull it again (dvc pull {path}) or delete it and re-run"
    weights = load_safetensors(path, remedy, fetched_from("runs"))[0]
    check_finite(weights, str(path), "such a network decides nothing: train it again")
    distribute(weights, members, path)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state atomically, behind its checksum: torch's format has none that holds.

    Tensor by tensor: a state may be as large as the memory that is left.
    """

    def write(file: BinaryIO) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch closes its archive after a write that failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_scratch(path, write)


def load_kept(path: Path, digest: str) -> dict[str, Any] | None:
    """A state that was set aside, if it is one of today's kind and of this plan."""
    state = _read_state(path)
    return state if state and _is_of_today(state) and state["digest"] == digest else None


def load_state(path: Path, digest: str) -> dict[str, Any] | None:
    """A resume state of exactly this plan, or None: any other is set aside, or is damaged."""
    state = _read_state(path)
    if state is None:
        if path.exists():  # behind a checksum that holds, and no state
            throw_away(path)
    elif set(state) != set(STATE):
        set_aside(path, "was saved by another version of this code")
    elif not _is_of_today(state):
        throw_away(path)
    elif state["digest"] != digest:
        set_aside(path, f"was saved by {state['digest']}")
    else:
        return state
    return None


def _read_state(path: Path) -> dict[str, Any] | None:
    """What a file of a state holds; None where there is none that can be read."""
    file = open_scratch(path)
    if file is None:
        return None
    try:
        # weights_only: no code of a pickle runs, even when somebody else wrote the file.
        with file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError, ValueError):
        return None
    return dict(state) if isinstance(state, dict) else None


def _is_of_today(state: Mapping[str, Any]) -> bool:
    """Whether it has the keys of today's code, each of its type."""
    same = set(state) == set(STATE)
    return same and all(isinstance(state[key], kinds) for key, kinds in STATE.items())
