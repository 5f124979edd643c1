"""A file's tensors beside an arch's: `python -m pipeline names FILE --arch resnet18`.

Reads only. Says which layout pairs them (`names:` of an entry in `victims:` or `weights:`), and
prints that entry.
"""

import argparse
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.loading import fitting, foreign, registry
from pipeline.loading.layouts import AUTO, COUNTER, OWN, rename, unused
from pipeline.plan import frozen
from pipeline.plan.params import reader, values
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry
from pipeline.store.checkpoint import Weights
from pipeline.store.files import sha256_of


@dataclass(frozen=True)
class Pairing:
    """A file's networks beside an arch: the layout that pairs them, or else the nearest."""

    networks: list[fitting.Network]
    own: Weights  # the arch's, without numbers
    layout: str
    wrong: fitting.Misfit
    fitting: list[str]  # layouts that fit, each another map

    @property
    def ours(self) -> dict[int, str]:
        """The arch's name for each tensor of the first network that has one, by identity."""
        named = rename(self.networks[0].weights, self.own, self.layout)
        return {id(value): name for name, value in named.items() if name in self.own}

    @property
    def fits(self) -> bool:
        """Whether there is one map, and only one."""
        return len(self.fitting) == 1


def pair(entries: Entries, spec: Entry, paths: Sequence[str], arch: str, dataset: str) -> Pairing:
    """The networks of files beside an arch for a data set, by the layout of the spec if it has one.

    Numbered members of one mapping are told apart.
    """
    return compare(
        fitting.prepare_networks(spec, paths, members=2), find_tensors(entries, arch, dataset), spec
    )


def compare(networks: list[fitting.Network], own: Weights, spec: Entry) -> Pairing:
    """Networks beside an arch's tensors, by the layout of the spec if it has one."""
    first, asked = networks[0].weights, spec.get("names", AUTO)
    among = fitting.EVERY if asked == AUTO else (asked,)
    layouts = fitting.find_layouts(first, own, among=among)
    layout, wrong = fitting.find_nearest(first, own, among=among)
    return Pairing(networks, own, layouts[0] if layouts else layout, wrong, layouts)


def find_tensors(entries: Entries, arch: str, dataset: str) -> Weights:
    """The tensors of an arch's network for the images of a data set, as shapes alone."""
    archs, datasets = entries.section("archs"), entries.section("datasets")
    spec = entries.exact_arch(values.find(archs, "archs", arch)).spec
    fields = entries.dataset(values.find(datasets, "datasets", dataset)).fields
    channels = fields["channels"]
    with torch.device("meta"):
        network = registry.build("archs", spec).build(
            classes=fields["classes"],
            channels=channels,
            size=fields["size"],
            mean=[0.0] * channels,
            std=[1.0] * channels,
        )
    weights: Weights = network.state_dict()
    return weights


def find_archs(entries: Entries, network: Weights, dataset: str) -> list[str]:
    """The archs whose tensors some layout pairs with a file's."""
    found = []
    for arch in entries.section("archs"):
        try:
            own = find_tensors(entries, arch, dataset)
        except UserError:  # no network of that arch takes images so small
            continue
        if fitting.find_layouts(network, own):
            found.append(arch)
    return found


def list_pairs(found: Pairing) -> list[str]:
    """The tensors of the first network, each beside the arch's, then those without a pair."""
    network, ours = found.networks[0].weights, found.ours
    shown = {name: value for name, value in network.items() if not name.endswith(COUNTER)}
    width = max(map(len, shown))
    text = [
        f"  {name:<{width}}  {tuple(value.shape)!s:<18} {ours.get(id(value), '-')}"
        for name, value in shown.items()
    ]
    return text + [f"  {'-':<{width}}  {'':<18} {name}" for name in found.wrong["missing"]]


def sample(found: Pairing) -> str:
    """The first and the last layer of the map, and where all of it is shown."""
    network, ours = found.networks[0].weights, found.ours
    paired = [(name, ours[id(value)]) for name, value in network.items() if id(value) in ours]
    pairs = {theirs.rpartition(".")[0]: own.rpartition(".")[0] for theirs, own in paired}
    edges = [f"{theirs} is {own}" for theirs, own in (*pairs.items(),)][:: max(1, len(pairs) - 1)]
    return f"{', ..., '.join(edges)} ({len(pairs)} layers; python -m pipeline names shows all)"


def count_tensors(found: Pairing) -> str:
    """How many tensors are paired, and which are left out because nothing ever runs them."""
    whole = found.networks[0].weights
    named = rename(whole, found.own, found.layout)
    left = sorted(p for p in unused(found.layout) if any(n.startswith(p) for n in whole))
    beside = f" (but {' '.join(left)}, never executed)" if left else ""
    return f"all {len([n for n in named if not n.endswith(COUNTER)])} tensors{beside}"


def build_entry(found: Pairing, spec: Entry, paths: Sequence[str], about: Entry) -> Entry:
    """The entry of `victims:` that reads files: `about` says dataset, arch or model, mean, std."""
    files = list(paths) if isinstance(spec["sha256"], list) else paths[0]
    entry: Entry = {"of": "file", "file": files, "sha256": spec["sha256"], "method": "standard"}
    entry |= {**about, "members": len(found.networks)}
    entry |= {k: spec[k] for k in ("part", "drop") if spec.get(k)}
    return entry if found.layout == OWN else entry | {"names": found.layout}


def spell_entry(name: str, entry: Entry) -> str:
    """An entry to paste into params.yaml, on one line."""
    return f"{name}: {{{', '.join(f'{key}: {_spell(value)}' for key, value in entry.items())}}}"


def _spell(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_spell, value))}]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"  # the plan reads no exponent
    return str(value) if re.fullmatch(r"[\w.:/+-]+", str(value)) else json.dumps(value)


def describe_files(paths: Sequence[str], part: str = "", drop: Sequence[str] = ()) -> Entry:
    """How files are read, by today's sums."""
    for path in map(Path, paths):
        if not path.is_file():
            raise UserError(f"{path}: is no file")
    sums = [sha256_of(Path(path)) for path in paths]
    return {"sha256": sums if len(sums) > 1 else sums[0], "part": part, "drop": list(drop)}


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline names", description=__doc__)
    parser.add_argument("file", nargs="+", help="a file of weights, or one a member")
    parser.add_argument("--arch", required=True, help="an entry of archs in params.yaml")
    parser.add_argument("--dataset", default="cifar10", help="whose images it takes")
    parser.add_argument("--part", default="", help="which network, where a file holds several")
    parser.add_argument("--drop", action="append", default=[], help="prefix of what is left out")
    args = parser.parse_args(argv)

    entries = Entries(reader.read(frozen.params_path()))
    spec = describe_files(args.file, args.part, args.drop)
    found = pair(entries, spec, args.file, args.arch, args.dataset)

    print(f"{fitting.name_files(args.file)}: {len(found.networks)} network(s); beside {args.arch}:")
    print("\n".join(list_pairs(found)))
    for key, (name, numbers) in found.networks[0].statistics.items():
        print(f"{key}: {numbers} ({name} in the file)")

    if not found.fits:
        advice = advise(entries, found, spec, args.file, args.dataset)
        raise UserError(f"{fitting.name_files(args.file)}: {advice}")
    print(f"names: {found.layout} pairs {count_tensors(found)}. In params.yaml, under victims:")
    stated = found.networks[0].statistics
    about = {key: stated[key][1] if key in stated else ["..."] for key in ("mean", "std")}
    about |= {"dataset": args.dataset, "arch": args.arch}
    print(f"  {spell_entry('mine', build_entry(found, spec, args.file, about))}")
    if "mean" not in stated:
        print("The file does not say its mean and std: write those that it was trained with.")


def advise(
    entries: Entries, found: Pairing, spec: Entry, paths: Sequence[str], dataset: str
) -> str:
    """What to do about a file without one map."""
    if found.fitting:
        return f"{' and '.join(found.fitting)} both fit; say which by `names`"
    layouts = fitting.find_layouts(found.networks[0].weights, found.own)
    if layouts:  # than the one that was asked for
        return f"{fitting.explain(found.wrong)}; names: {' or '.join(layouts)} would fit"
    if extra := find_extra(found, spec, paths):
        words = " ".join(f"--drop {prefix}" for prefix in extra)
        return f"{fitting.explain(found.wrong)}; without {', '.join(extra)} it fits: add {words}"
    if classes := count_classes(found):
        known = _list_datasets(entries, classes, dataset)
        remedy = f"add --dataset {' or '.join(known)}" if known else "no data set here has so many"
        return f"its last layer tells {classes} classes apart, unlike {dataset}'s; {remedy}"
    others = find_archs(entries, found.networks[0].weights, dataset)
    fits = f"its tensors are those of {', '.join(others)}" if others else "no arch here fits it"
    return f"{fitting.explain(found.wrong)} (nearest layout: {found.layout}); {fits}"


def find_extra(found: Pairing, spec: Entry, paths: Sequence[str]) -> list[str]:
    """Prefixes of tensors without which the files fit; none where no such prefixes are found."""
    whole = found.networks[0].weights
    tops = list(dict.fromkeys(map(_find_top, whole)))
    surplus = set(map(_find_top, found.wrong["unexpected"]))
    trials = [([top for top in tops if top in surplus], [t for t in tops if t not in surplus])]
    for kept in tops:  # beside all of a network, or of numbered members: these stay
        others = [top for top in tops if _find_stem(top) != _find_stem(kept)]
        trials.append((others, [kept]))

    for prefixes, shown in trials:
        rest = {n: v for n, v in whole.items() if _find_top(n) in shown}
        if prefixes and fitting.find_layouts(foreign.unwrap(rest), found.own):
            dropped = spec | {"drop": [*spec.get("drop", []), *prefixes]}
            with suppress(UserError):  # of members in one mapping, prefixes are other ones
                if compare(
                    fitting.prepare_networks(dropped, paths, members=2), found.own, spec
                ).fits:
                    return prefixes
    return []


def _find_top(name: str) -> str:
    """The first part of a tensor's name, with its dot."""
    first, dot, _ = name.partition(".")
    return first + dot


def _find_stem(top: str) -> str:
    """What numbered siblings share, as `model_#` of `model_0.`."""
    return re.sub(r"\d+\.$", "#", top)


def count_classes(found: Pairing) -> int | None:
    """The classes of a network that differs from the arch's in the last layer's outputs alone."""
    named = rename(found.networks[0].weights, found.own, found.layout)
    shapes = {
        n: (v.shape, found.own[n].shape)
        for n, v in named.items()
        if n in found.own and v.shape != found.own[n].shape
    }
    is_only = not found.wrong["missing"] and not found.wrong["unexpected"]
    is_head = len({name.rpartition(".")[0] for name in shapes}) == 1 and all(
        len(a) > 0 and a[1:] == b[1:] for a, b in shapes.values()
    )
    return next(iter(shapes.values()))[0][0] if is_only and is_head else None


def _list_datasets(entries: Entries, classes: int, beside: str) -> list[str]:
    """Data sets of so many classes whose images have the channels of another's."""
    channels = entries.dataset(beside).fields["channels"]
    found = []
    for name in entries.section("datasets"):
        with suppress(UserError):  # an entry of files that are not there
            fields = entries.dataset(name).fields
            if (fields["classes"], fields["channels"]) == (classes, channels):
                found.append(name)
    return found


if __name__ == "__main__":
    report(main)
