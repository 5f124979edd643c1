"""Weights that were trained elsewhere: reading their files, and starting members from them."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import UserError
from pipeline.plan.params.values import Entry
from pipeline.store import checkpoint
from pipeline.store.checkpoint import Weights
from pipeline.store.files import sha256_of

# where files keep their weights
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "ema", "weights", "params")
NUMBERED = re.compile(r"(?:[a-z]+_?)?(\d+)")  # a mapping for each member: model_0, member1, 2
COUNTS = ("total_ops", "total_params")  # thop's, which are no weights
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
GLOBAL = re.compile(r"GLOBAL (\S+)")  # in torch's refusal
BLOCK = re.compile(r"layer(\d)\.(\d)\.(conv1|bn1|conv2|bn2|downsample|shortcut)\.(.*)")
PARTS = {"conv1": "first.0", "bn1": "first.1", "conv2": "rest.1.0", "bn2": "rest.1.1"}
PARTS |= {"downsample": "shortcut", "shortcut": "shortcut"}
EDGES = {"conv1.": "stem.0.", "bn1.": "stem.1.", "fc.": "head.", "linear.": "head."}


def read(path: Path) -> Weights:
    """The tensors of a file by name; those of several members are numbered, `<member>.<name>`."""
    loaded = _load(path)
    for key in NESTED:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict | list):
            loaded = loaded[key]

    parts = _by_member(loaded)
    if parts:
        loaded = {f"{i}.{name}": value for i, part in parts.items() for name, value in part.items()}

    if not _is_flat(loaded):
        keys = ", ".join(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise UserError(f"{path}: holds no mapping from names to tensors (but {keys[:200]})")

    # what wrappers and counters add to a network's own names
    weights = {n: v for n, v in loaded.items() if n.rpartition(".")[2] not in COUNTS}
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): value for name, value in weights.items()}

    for name, value in weights.items():
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            raise UserError(f"{path}: tensor {name} is sparse, quantised or empty; save it dense")
    return weights


def _load(path: Path) -> Any:
    """What a file holds, without running code from it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = GLOBAL.search(str(error))
        wants = f"it wants {wanted[1]}" if wanted else "it is no checkpoint of tensors"
        raise UserError(
            f"{path}: cannot be read as plain weights: {wants}, and nothing here runs code from a "
            "file; in the project that wrote it, torch.save(model.state_dict(), 'plain.pt')"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, LookupError, ValueError, OSError) as error:
        size = path.stat().st_size
        raise UserError(
            f"{path}: cannot be read as plain weights: its {size} bytes are empty, cut or another "
            "format's; copy it again"
        ) from error


def _by_member(loaded: Any) -> dict[int, Any]:
    """Mappings of tensors by member's number, where a file holds one for each; else nothing."""
    if isinstance(loaded, list):
        loaded = {str(i): part for i, part in enumerate(loaded)}
    if not isinstance(loaded, dict) or not all(_is_flat(part) for part in loaded.values()):
        return {}
    numbers = {NUMBERED.fullmatch(str(key)): part for key, part in loaded.items()}
    return {int(found[1]): part for found, part in numbers.items() if found}


def _is_flat(loaded: Any) -> bool:
    """Whether this is a mapping from names to tensors, with at least one."""
    return (
        isinstance(loaded, dict)
        and bool(loaded)
        and all(isinstance(n, str) and isinstance(v, torch.Tensor) for n, v in loaded.items())
    )


def fit(weights: Weights, members: list[nn.Module], spec: Entry, path: Path) -> Weights:
    """A file's tensors, `<member>.<name>`, made those of the members, or refused by their names.

    What a torch before 0.4.1 did not count is taken as fresh; a normaliser must be the stated one.
    """
    fresh = checkpoint.collect(members)
    if len(members) == 1 and not weights.keys() & fresh.keys():
        weights = {f"0.{name}": value for name, value in weights.items()}
    if spec.get("names", "ours") != "ours":
        weights = {
            f"{i}.{name}": value
            for i, member in enumerate(members)
            for name, value in _torchvision(_of(i, weights), member.state_dict()).items()
        }
    counters = {n: v for n, v in fresh.items() if n.endswith("num_batches_tracked")}
    weights = {n: v for n, v in (counters | weights).items() if not _normalises(n, v, spec, path)}
    wrong = {
        "missing": sorted(fresh.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - fresh.keys()),
        "of another shape": [
            f"{n} {tuple(weights[n].shape)} for {tuple(v.shape)}"
            for n, v in fresh.items()
            if n in weights and weights[n].shape != v.shape
        ],
    }
    if any(wrong.values()):
        said = [f"{len(ns)} {what} ({', '.join(ns[:3])})" for what, ns in wrong.items() if ns]
        raise UserError(
            f"{path}: weights do not fit this arch: {'; '.join(said)}; mend keys, names, arch or "
            "members in params.yaml"
        )
    return weights


def _of(number: int, weights: Weights) -> Weights:
    """The tensors of one member, without its number."""
    start = f"{number}."
    return {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}


def _normalises(name: str, value: torch.Tensor, spec: Entry, path: Path) -> bool:
    """Whether a tensor is a normaliser's; raises UserError unless it is what the entry states."""
    key = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}.get(name.rpartition(".")[2])
    stated = spec["statistics"][key] if key else []
    if key is None or value.numel() != len(stated):
        return False
    found = [round(float(v), 4) for v in value.flatten()]
    if any(abs(a - b) > 1e-3 for a, b in zip(found, stated, strict=True)):
        raise UserError(
            f"{path}: {name} is {found}, the entry's {key} is {stated}; write the file's"
        )
    return True


def verified(path: Path, expected: str) -> Weights:
    """The tensors of the file with exactly this sha256, which is checked before it is opened."""
    if not path.exists():
        raise UserError(f"{path}: is missing; put it there, or mend `file` in params.yaml")
    found = sha256_of(path)
    if found != expected:
        raise UserError(f"{path}: its sha256 is {found}, params.yaml says {expected}")
    weights = read(path)
    checkpoint.check_finite(weights, str(path), "such a network decides nothing: take another file")
    return weights


def start(members: list[nn.Module], path: Path, spec: Entry) -> None:
    """Give every member the file's weights; `fresh` ones of another shape stay as they were drawn.

    Whatever else does not fit, name by name and shape by shape, is refused.
    """
    weights = verified(path, spec["sha256"])
    for member in members:
        own = member.state_dict()
        given = weights if spec["names"] == "ours" else _torchvision(weights, own)
        taken = {n: v for n, v in given.items() if n in own and v.shape == own[n].shape}
        left = [
            n for n in {*own, *given} if n not in taken and not n.endswith("num_batches_tracked")
        ]
        wrong = sorted(n for n in left if not n.startswith(tuple(spec["fresh"])))
        if wrong or not taken:
            raise UserError(f"{path}: does not fit this arch (tensor {[*wrong, 'any'][0]})")
        member.load_state_dict(taken, strict=False)


def _torchvision(weights: Weights, own: Weights) -> Weights:
    """A ResNet's tensors under our names: torchvision's, or those of the usual CIFAR code."""
    first = min((int(n.split(".")[1]) for n in own if ".first.0." in n), default=0)

    def renamed(name: str) -> str:
        block = BLOCK.fullmatch(name)
        if block:
            stage, number, part, rest = block.groups()
            return f"body.{2 * (int(stage) - 1) + int(number) + first}.{PARTS[part]}.{rest}"
        edge = next((e for e in EDGES if name.startswith(e)), None)
        return EDGES[edge] + name.removeprefix(edge) if edge else name

    return {renamed(name): value for name, value in weights.items()}
