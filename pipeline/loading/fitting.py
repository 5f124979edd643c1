"""Networks of a user's files as those of fresh members: paired by name, or refused by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.core.layers import Normalise
from pipeline.errors import UserError
from pipeline.loading import foreign
from pipeline.loading.layouts import AUTO, COUNTER, LAYOUTS, OWN, rename
from pipeline.loading.modules import Foreign
from pipeline.plan.params.values import Entry
from pipeline.store.checkpoint import Weights

STATISTICS = {"mean": "mean", "mu": "mean", "means": "mean", "new_mean": "mean"}
STATISTICS |= {"std": "std", "sigma": "std", "sds": "std", "new_std": "std"}
EVERY = (OWN, *LAYOUTS)
NUMBERED = re.compile(r"(?:[a-z]+_?)?(\d+)")  # first part of a name: `models.0.`, `model_0.`
MOST_CHANNELS = 4  # of an image, so of a normaliser's tensor
Statistics = dict[str, tuple[str, list[float]]]  # by mean and std: the tensor and its values
Misfit = dict[str, list[str]]  # missing, unexpected, of another shape: names


@dataclass(frozen=True)
class Network:
    """The tensors of one network by its own names, and what its normaliser says."""

    weights: Weights
    statistics: Statistics


def adopt(members: Sequence[nn.Module], spec: Entry, paths: Sequence[str]) -> None:
    """Give every member its network of the files; whatever does not fit is refused by name.

    `keys` renames prefixes, `drop` leaves tensors out, `names` is a layout, `auto` or ours. What a
    torch before 0.4.1 did not count is taken as fresh; a normaliser must be the member's own.
    """
    networks = prepare_networks(spec, paths, len(members))
    if len(networks) != len(members):
        raise UserError(
            f"{name_files(paths)}: holds {len(networks)} networks for {len(members)} members; mend "
            "file or members in params.yaml"
        )
    for number, (member, network) in enumerate(zip(members, networks, strict=True)):
        where = f"{name_files(paths)}: member {number}" if len(members) > 1 else name_files(paths)
        _fill(member, network, spec, where)


def start(members: Sequence[nn.Module], spec: Entry, paths: Sequence[str]) -> None:
    """Give every member the one network of the files, or its own of as many as members.

    `fresh` tensors of another shape, or without a counterpart, stay as they were drawn.
    """
    networks = prepare_networks(spec, paths, len(members))
    if len(networks) not in (1, len(members)):
        raise UserError(
            f"{name_files(paths)}: holds {len(networks)} networks for {len(members)} members; one "
            "for all is asked for, or one for each"
        )
    for number, member in enumerate(members):
        _fill(member, networks[number % len(networks)], spec, name_files(paths))


def prepare_networks(spec: Entry, paths: Sequence[str], members: int) -> list[Network]:
    """The files' networks, prefixes dropped and renamed as an entry says."""
    sums = spec["sha256"] if isinstance(spec["sha256"], list) else [spec["sha256"]]
    whole = foreign.verified(paths, sums, spec.get("part", ""))
    whole = _drop(whole, spec.get("drop", []), name_files(paths))

    if "model" in spec.get("arch", {}):  # a user's own network normalises as it does
        networks = [Network(weights, {}) for weights in whole]
    elif len(whole) == 1 and members > 1:
        networks = _split(whole[0])
    else:
        networks = [_take_statistics(weights) for weights in whole]
    keys = spec.get("keys", [])
    return [Network(_rename_prefixes(n.weights, keys), n.statistics) for n in networks]


def name_files(paths: Sequence[str]) -> str:
    """The files in a message."""
    return ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")


def _split(network: Weights) -> list[Network]:
    """The networks of members that stand numbered in one mapping: `models.0.conv1.weight`.

    Each may have a normaliser of its own, and one may stand beside them for all.
    """
    bare = {n: v for n, v in network.items() if not _is_statistic(n, v)}
    above = "".join([*bare][:1]).removesuffix("".join([*foreign.unwrap(bare)][:1]))
    parts: dict[int, Weights] = {}
    beside: Weights = {}
    for name, value in network.items():
        first, _, rest = name.removeprefix(above).partition(".")
        number = NUMBERED.fullmatch(first)
        if number and rest and name.startswith(above):
            parts.setdefault(int(number[1]), {})[rest] = value
        else:
            beside[name] = value

    shared = _take_statistics(beside)
    found = [_take_statistics(parts[number]) for number in sorted(parts)]
    if shared.weights or len({frozenset(part.weights) for part in found}) != 1:
        return [_take_statistics(network)]
    return [Network(part.weights, shared.statistics | part.statistics) for part in found]


def _drop(networks: list[Weights], prefixes: list[str], where: str) -> list[Weights]:
    """Without tensors of these prefixes, each of which must be some tensor's."""
    for prefix in prefixes:
        if not any(name.startswith(prefix) for network in networks for name in network):
            raise UserError(f"{where}: no tensor begins with {prefix}; mend what is to drop")
    left_out = tuple(prefixes)
    return [{k: v for k, v in n.items() if not k.startswith(left_out)} for n in networks]


def _rename_prefixes(network: Weights, renames: list[list[str]]) -> Weights:
    """Every name with its first matching prefix replaced."""
    renamed: Weights = {}
    for name, value in network.items():
        old, new = next((pair for pair in renames if name.startswith(pair[0])), ["", ""])
        changed = new + name[len(old) :]
        if changed in renamed:
            raise UserError(f"params.yaml: victims: keys: two tensors become {changed}")
        renamed[changed] = value
    return renamed


# ---- one network and one member


def _take_statistics(weights: Weights) -> Network:
    """A network's tensors, and its normaliser's apart."""
    found: Statistics = {}
    for name, value in weights.items():
        key = STATISTICS.get(name.rpartition(".")[2], "")
        if _is_statistic(name, value) and key not in found:
            found[key] = (name, [round(float(v), 6) for v in value.flatten()])
    taken = {name for name, _ in found.values()}
    return Network(foreign.unwrap({n: v for n, v in weights.items() if n not in taken}), found)


def _is_statistic(name: str, value: torch.Tensor) -> bool:
    return name.rpartition(".")[2] in STATISTICS and value.numel() <= MOST_CHANNELS


def _fill(member: nn.Module, given: Network, spec: Entry, where: str) -> None:
    """Load a network into a member, or raise UserError naming what is in the way."""
    network = given.weights
    _check_statistics(member, given.statistics, where)
    network_of = member.network if isinstance(member, Foreign) else member
    named_own = network_of.state_dict()
    own, fresh = foreign.unwrap(named_own), tuple(spec.get("fresh", []))

    layout = spec.get("names", OWN)
    if layout == AUTO:
        layout = find_layout(network, own, fresh, where)
    named = rename(network, own, layout)
    wrong = compare(named, own, fresh)
    if any(wrong.values()):
        raise UserError(f"{where}: {explain(wrong)}; {_advise(network, own, fresh, layout)}")
    taken = {n: v for n, v in named.items() if n in own and v.shape == own[n].shape}
    if not taken:
        raise UserError(f"{where}: nothing of it fits this arch; mend names, arch or fresh")
    weights = zip(named_own, (own | taken).values(), strict=True)
    network_of.load_state_dict(dict(weights))


def _check_statistics(member: nn.Module, found: Statistics, where: str) -> None:
    """Raise UserError unless a file's normaliser is what the member subtracts and divides by."""
    normalise = next((m for m in member.modules() if isinstance(m, Normalise)), None)
    if normalise is None:
        return
    for key, (name, values) in found.items():
        stated = getattr(normalise, key).flatten().cpu()
        same = len(values) in (1, len(stated))  # one value is that of every channel
        if not same or (torch.tensor(values) - stated).abs().max() > 1e-3:
            ours = [round(float(v), 4) for v in stated]
            raise UserError(
                f"{where}: {name} is {values}, the entry's {key} is {ours}; write the file's"
            )


def find_layouts(
    network: Weights, own: Weights, fresh: Sequence[str] = (), among: Sequence[str] = EVERY
) -> list[str]:
    """The layouts by whose names a network and an arch pair one to one, in equal shapes.

    Those that pair alike count once.
    """
    pairs: dict[str, frozenset[tuple[str, int]]] = {}
    for layout in among:
        given = rename(network, own, layout)
        pairing = frozenset((name, id(value)) for name, value in given.items())
        if not any(compare(given, own, fresh).values()) and pairing not in pairs.values():
            pairs[layout] = pairing
    return list(pairs)


def find_layout(network: Weights, own: Weights, fresh: Sequence[str], where: str) -> str:
    """The one layout that fits; raises UserError when there is none or more than one."""
    fitting = find_layouts(network, own, fresh)
    if len(fitting) > 1:
        raise UserError(f"{where}: its names fit {' and '.join(fitting)}; say which by `names`")
    if not fitting:
        layout, wrong = find_nearest(network, own, fresh)
        raise UserError(f"{where}: no known layout fits; nearest, {layout}: {explain(wrong)}")
    return fitting[0]


def find_nearest(
    network: Weights, own: Weights, fresh: Sequence[str] = (), among: Sequence[str] = EVERY
) -> tuple[str, Misfit]:
    """The layout of the fewest names that do not fit, and these."""
    found = {n: compare(rename(network, own, n), own, fresh) for n in among}
    return min(found.items(), key=lambda pair: sum(map(len, pair[1].values())))


def compare(given: Weights, own: Weights, fresh: Sequence[str] = ()) -> Misfit:
    """What keeps tensors from being an arch's, but for its `fresh` ones and batch counters."""
    free = tuple(fresh)

    def is_asked(name: str) -> bool:
        return not name.startswith(free) and not name.endswith(COUNTER)

    return {
        "missing": [n for n in own if n not in given and is_asked(n)],
        "unexpected": [n for n in given if n not in own and is_asked(n)],
        "of another shape": [
            f"{n} {tuple(given[n].shape)} for {tuple(v.shape)}"
            for n, v in own.items()
            if n in given and given[n].shape != v.shape and is_asked(n)
        ],
    }


def explain(wrong: Misfit) -> str:
    """What does not fit, counted and named, in one line."""
    counted = [f"{len(ns)} {what} ({', '.join(ns[:3])})" for what, ns in wrong.items() if ns]
    return f"weights do not fit this arch: {'; '.join(counted)}"


def _advise(network: Weights, own: Weights, fresh: Sequence[str], layout: str) -> str:
    fitting = [name for name in find_layouts(network, own, fresh) if name != layout]
    if fitting:
        return f"write names: {fitting[0]}, which fits"
    return "mend keys, names, arch or members in params.yaml"
