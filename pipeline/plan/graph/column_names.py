"""Columns of a table by their names: which there are, what each is of, and what it is called."""

import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from pipeline.plan.graph import suites
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry

# What the members say without the victim's rule; and against their peers, where a suite asks them
MEMBERS = ("oracle", "none", "vote", "regret", "alone")
PEERS = ("peers", "ahead", "behind", "gap", "gaps")
VIEWS = ("all", "k10")  # all members right, and right in 10 queries: random victims only
SIZES = ("l2", "pixels")  # how far an attack went on the images that it fooled: no accuracies
COSTS = ("members", "parameters", "train_flops", "inference_macs")
# What a row says beside its columns, in the .csv or the .json
KEYS = (
    *COSTS,
    "method",
    "dataset",
    "arch",
    "flags",
    "notes",
    "not_trusted",
    "not_ranked",
    "status",
    "scale",
    "cut",
)
DISK = "trajectory_bytes"  # of the snapshots an average takes, their parameters in float32
CLEAN = "clean"
STRONGEST = "strongest"
NUMBER = "[0-9]{1,6}(?:p[0-9]{1,6}|_[1-9][0-9]{0,5})?"  # 1, 0p5 and 128_255 are 1, 0.5, 128/255
RULE = re.compile(f"(.+)_({'|'.join((*VIEWS, *MEMBERS, *PEERS, *SIZES))}|l2_{NUMBER})")


def split(column: str, names: Collection[str]) -> tuple[str, str]:
    """What a column is of, and what it says of that: `cw_l2_l2_0p5` is (cw_l2, l2_0p5).

    Whatever `names` holds is itself and says nothing more: `pgd_l2` is (pgd_l2, ).
    """
    found = None if column in names else RULE.fullmatch(column)
    return (found[1], found[2]) if found else (column, "")


def radius(rule: str) -> float:
    """The distance of a column such as `cw_l2_l2_0p5`, as its rule l2_0p5 spells it."""
    return float(Fraction(rule.removeprefix("l2_").replace("p", ".").replace("_", "/")))


def names(entry: Entry, attacks: Collection[str]) -> set[str]:
    """What rules are said of: attacks, suites, their worst cases, means."""
    asked = entry["suites"]
    return {CLEAN, *attacks, *asked, *(f"{s}_worst" for s in asked), *entry["means"]}


def made(entry: Entry) -> dict[str, list[str]]:
    """Columns made of others, by name: means, or the strongest where the entry says so."""
    means = entry["means"].items()
    return {name: how[STRONGEST] if is_strongest(how) else how for name, how in means}


def is_strongest(how: Any) -> bool:
    """Whether a column is the strongest of others, {strongest: [...]}, and not their mean."""
    return isinstance(how, dict) and set(how) == {STRONGEST}


def accuracies(entries: Entries, entry: Entry, asked: Any = ()) -> set[str]:
    """Accuracies that the suites of a table give; of those at a distance, the ones asked for."""
    attacks = _apart(entries, entry)
    known = names({**entry, "means": ()}, attacks)
    known |= {f"{c}_{view}" for c in known for view in VIEWS}
    known |= {f"{a}_{rule}" for a in [CLEAN, *attacks] for rule in MEMBERS}

    asking = [s for s in entry["suites"] if suites.has_peers(entries, s)]
    heard = [CLEAN, *_apart(entries, {"suites": asking})] if asking else []
    known |= {f"{a}_{rule}" for a in heard for rule in PEERS}

    words = [c for c in asked if isinstance(c, str)] if isinstance(asked, list) else []
    return known | {c for c in words if _is_at_distance(c, attacks)}


def _is_at_distance(column: str, attacks: Collection[str]) -> bool:
    attack, rule = split(column, attacks)
    return attack in attacks and rule.startswith("l2_")


def sizes(entries: Entries, entry: Entry) -> set[str]:
    """Distances that the suites of a table give."""
    return {f"{a}_{rule}" for a in _apart(entries, entry) for rule in SIZES}


def _apart(entries: Entries, entry: Entry) -> list[str]:
    """Attacks that meet every image, so that each is a column."""
    whole = [s for s in entry["suites"] if not suites.leaves(entries, s)]
    return [a for s in whole for a in suites.names(entries, s)]


def cuts(entries: Entries, behind: Mapping[str, Mapping[str, str]]) -> dict[str, Entry]:
    """What the scale changes of the attacks behind a table, by entry."""
    used = {attack for suite in behind.values() for attack in suite.values()}
    changes = {name: entries.cut_of("attacks", name) for name in sorted(used)}
    return {name: cut for name, cut in changes.items() if cut}


def shown(
    entries: Entries, entry: Entry, behind: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """What a table's columns are called: an AutoAttack that the scale cuts is `_lite`."""
    attacks = {name: attack for suite in behind.values() for name, attack in suite.items()}
    known, called = names(entry, attacks), {}
    for column in entry["columns"]:
        of, rule = split(column, known)
        lite = "_lite" if of in attacks and _is_lite(entries, attacks[of]) else ""
        called[column] = of + lite + (f"_{rule}" if rule else "")
    return called


def _is_lite(entries: Entries, attack: str) -> bool:
    """Whether an attack is an AutoAttack whose budget the scale cuts."""
    root, entry = entries.entry("attacks", attack)
    cut = entries.cut_of("attacks", attack)
    smaller = any(entry.get(key) != value for key, value in cut.items() if key != "eps")
    return smaller and (root == "autoattack" or entry.get("class") == "AutoAttack")
