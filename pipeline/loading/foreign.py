"""Weights that were trained elsewhere: reading their files, and starting members from them."""

import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import UserError
from pipeline.plan.params.values import Entry
from pipeline.store import checkpoint
from pipeline.store.checkpoint import Weights
from pipeline.store.files import sha256_of

NESTED = ("state_dict", "model_state_dict", "model", "net")  # where files keep their weights
BLOCK = re.compile(r"layer(\d)\.(\d)\.(conv1|bn1|conv2|bn2|downsample)\.(.*)")
PARTS = {"conv1": "first.0", "bn1": "first.1", "conv2": "rest.1.0", "bn2": "rest.1.1"}
PARTS |= {"downsample": "shortcut"}
EDGES = {"conv1.": "stem.0.", "bn1.": "stem.1.", "fc.": "head."}


def read(path: Path) -> Weights:
    """The tensors of a file by name."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as plain weights ({reason})") from error
    for key in NESTED:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    is_flat = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    )
    if not is_flat or not loaded:
        raise UserError(f"{path}: holds no mapping from names to tensors")
    return dict(loaded)


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
        given = _torchvision(weights, own) if spec["names"] == "torchvision" else weights
        taken = {n: v for n, v in given.items() if n in own and v.shape == own[n].shape}
        left = [
            n for n in {*own, *given} if n not in taken and not n.endswith("num_batches_tracked")
        ]
        wrong = sorted(n for n in left if not n.startswith(tuple(spec["fresh"])))
        if wrong or not taken:
            raise UserError(f"{path}: does not fit this arch (tensor {[*wrong, 'any'][0]})")
        member.load_state_dict(taken, strict=False)


def _torchvision(weights: Weights, own: Weights) -> Weights:
    """A torchvision ResNet's tensors under the names of ours; blocks are counted through."""
    first = min((int(n.split(".")[1]) for n in own if ".first.0." in n), default=0)

    def renamed(name: str) -> str:
        block = BLOCK.fullmatch(name)
        if block:
            stage, number, part, rest = block.groups()
            return f"body.{2 * (int(stage) - 1) + int(number) + first}.{PARTS[part]}.{rest}"
        edge = next((e for e in EDGES if name.startswith(e)), None)
        return EDGES[edge] + name.removeprefix(edge) if edge else name

    return {renamed(name): value for name, value in weights.items()}
