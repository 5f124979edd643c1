"""Files of weights that were trained elsewhere: the networks they hold, each by its own names.

Nothing in a file is run: what is no tensor, number or text is refused by name.
"""

import pickle
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.store import checkpoint
from pipeline.store.checkpoint import Weights
from pipeline.store.files import sha256_of

# where files keep their weights
NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "ema",
    "ema_state_dict",
    "model_ema",
    "weights",
    "params",
)
# of a mapping for each member: model_0, member1, 2; `epoch_10` is another state of the same one
STATES = "epoch|ep|step|iter|iteration|round|ckpt|checkpoint|best|last|version|v"
MEMBER = re.compile(rf"(?!(?:{STATES})_?\d)(?:[a-z]+_?)?(\d+)")
COUNTS = ("total_ops", "total_params", "n_averaged")  # thop's and AveragedModel's: no weights
# of weights; others, such as float8 and complex, lack what a network needs
PLAIN = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
PLAIN |= {torch.int8, torch.int16, torch.int32, torch.int64}
# what torch and safetensors raise at files that are cut, rotten or of another kind
DAMAGE = (
    SafetensorError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    struct.error,
)
HOLDERS = (dict, list, tuple)
GLOBAL = re.compile(r"(?:GLOBAL |global )(\S+)")  # in torch's refusal


def verified(paths: Sequence[str], expected: Sequence[str], part: str = "") -> list[Weights]:
    """The networks of files with exactly these sha256, which are checked before they are opened."""
    networks = []
    for path, stated in zip(map(Path, paths), expected, strict=True):
        if not path.exists():
            raise UserError(f"{path}: is missing; put it there, or mend `file` in params.yaml")
        found = sha256_of(path)
        if found != stated:
            raise UserError(f"{path}: its sha256 is {found}, params.yaml says {stated}")
        networks += read(path, part)
    return networks


def read(path: Path, part: str = "") -> list[Weights]:
    """The tensors of each network of a file, by the file's own names without a shared prefix.

    `part` names the network where a file holds several for one member, such as `ema`.
    """
    try:
        found = _networks(_load(path), path, part)
    except RecursionError:
        raise UserError(
            f"{path}: cannot be read as plain weights: it contains itself; in the project that "
            "wrote it, torch.save(model.state_dict(), 'plain.pt')"
        ) from None
    networks = [_clean(network, path) for network in found]
    if not all(networks):
        raise UserError(f"{path}: holds a network without a tensor")
    for network in networks:
        remedy = "such a network decides nothing: take another file"
        checkpoint.check_finite(network, str(path), remedy)
    return networks


def _load(path: Path) -> Any:
    """What a file holds, without running code from it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of a format that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = GLOBAL.search(str(error))
        wants = f"it wants {wanted[1]}" if wanted else "it is no checkpoint of tensors"
        raise UserError(
            f"{path}: cannot be read as plain weights: {wants}, and nothing here runs code from a "
            "file; in the project that wrote it, torch.save(model.state_dict(), 'plain.pt')"
        ) from error
    except DAMAGE as error:
        size = path.stat().st_size
        raise UserError(
            f"{path}: cannot be read as plain weights: its {size} bytes are empty, cut or another "
            "format's; copy it again"
        ) from error


def _networks(loaded: Any, path: Path, part: str) -> list[Weights]:
    """The mappings from names to tensors in a file, one a network."""
    own = _strip(loaded)
    inside = loaded if isinstance(loaded, dict) and not own else {}
    if part:
        if part not in inside:
            keys = ", ".join(map(str, inside)) or "one network's tensors"
            raise UserError(f"{path}: holds no part {part!r} (but {keys[:200]}); mend `part`")
        return _networks(inside[part], path, "")

    if own:
        return [own]
    members = _by_member(loaded)
    if members:
        return members

    found = [k for k, v in inside.items() if _is_flat(v) or _by_member(v)]
    found += [k for k in NESTED if k not in found and isinstance(inside.get(k), HOLDERS)]
    # several states of one network, which say so themselves
    found += [k for k, v in inside.items() if k not in found and _holds_networks(v)]
    if len(found) > 1:
        raise UserError(
            f"{path}: holds several networks, {', '.join(map(str, found))}; name one by `part`, or "
            "save them as model_0, model_1 where they are the members of one ensemble"
        )
    if not found:
        keys = ", ".join(map(str, inside)) if inside else type(loaded).__name__
        raise UserError(f"{path}: holds no mapping from names to tensors (but {keys[:200]})")
    return _networks(inside[found[0]], path, part)


def _holds_networks(loaded: Any) -> bool:
    """Whether a mapping holds networks and nothing else."""
    return isinstance(loaded, dict) and bool(loaded) and all(map(_is_flat, loaded.values()))


def _by_member(loaded: Any) -> list[Weights]:
    """Mappings of tensors in the order of their members, where there is one for each.

    Epochs, accuracies and an optimiser's state may stand beside them, no other network.
    """
    if isinstance(loaded, list | tuple):
        loaded = dict(enumerate(loaded))
    if not isinstance(loaded, dict):
        return []
    named = {key: MEMBER.fullmatch(str(key)) for key, v in loaded.items() if isinstance(v, HOLDERS)}
    if any(not n and (key in NESTED or _is_flat(loaded[key])) for key, n in named.items()):
        return []
    counted = {int(n[1]): _unnest(loaded[key]) for key, n in named.items() if n}
    is_whole = len(counted) == sum(map(bool, named.values())) and all(counted.values())
    return [counted[i] for i in sorted(counted)] if is_whole else []


def _unnest(member: Any) -> Weights:
    """The tensors of a member, which may lie one or more levels down; empty where there are none,
    or several networks."""
    if _is_flat(member):
        return dict(member)
    if not isinstance(member, dict):
        return {}
    within = [member[key] for key in NESTED if isinstance(member.get(key), dict)]
    return _unnest(within[0]) if len(within) == 1 else {}


def _strip(loaded: Any) -> Weights:
    """The tensors of a mapping from names to tensors, beside which numbers and texts may stand;
    empty of anything else."""
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        return {}
    tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    others = [value for name, value in loaded.items() if name not in tensors]
    return tensors if all(v is None or isinstance(v, int | float | str) for v in others) else {}


def _is_flat(loaded: Any) -> bool:
    """Whether this is a mapping from names to tensors, with at least one."""
    return (
        isinstance(loaded, dict)
        and bool(loaded)
        and all(isinstance(n, str) and isinstance(v, torch.Tensor) for n, v in loaded.items())
    )


def _clean(network: Weights, path: Path) -> Weights:
    """The tensors of a network without what counters and wrappers add."""
    for name, value in network.items():
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            raise UserError(f"{path}: tensor {name} is sparse, quantised or empty; save it dense")
        if value.dtype not in PLAIN:
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"{path}: tensor {name} is {kind}; save a network of float32")
    return unwrap({n: v.detach() for n, v in network.items() if n.rpartition(".")[2] not in COUNTS})


def unwrap(network: Weights) -> Weights:
    """Without a prefix that all names share, as DataParallel's `module.` and others' `model.`."""
    while network and len({name.partition(".")[0] for name in network}) == 1:
        if any("." not in name for name in network):
            break
        network = {name.partition(".")[2]: value for name, value in network.items()}
    return network
