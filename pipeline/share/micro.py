"""A micro-run of one component: every entry that uses it, cut to seconds, as a params.yaml."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params import schema, values
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import nearest
from pipeline.raw.local import NONE

CUT = {"epochs": 6, "batch_size": 32, "train_images": 320, "validate_every": 3}
TABLE: Entry = {
    "title": "micro",
    "recipe": "unified",
    "datasets": ["cifar10"],
    "archs": ["resnet20"],
    "members": [1],
    "seeds": [0],
    "rows": ["standard"],
    "columns": ["clean"],
    "suites": ["micro"],
    "images": 40,
    "checkpoint": "last",
    "reference": "none",
    "reported": "none",
    "printed": "any",
    "means": {},
}


def entries_of(params: Entry, kind: str, name: str) -> list[str]:
    """Entries of params.yaml that a component stands behind, `base:` followed.

    Those whose `files` are none are bases of others: there is nothing to run.
    """
    section = values.section(params, kind)
    merged = {e: values.inherit(section, kind, e) for e in section}
    entries = [e for e, (root, _) in merged.items() if root == name]

    if not entries:
        hint = nearest(name, schema.available(kind))
        raise UserError(f"params.yaml: {kind}: no entry uses {name}{hint}; nothing to prove")
    with_files = [e for e in entries if merged[e][1].get("files") != NONE]
    if not with_files:
        raise UserError(f"params.yaml: {kind}: no entry of {name} names `files`; add one to prove")
    return with_files


def params_for(params: Entry, kind: str, name: str, has_cifar10: bool) -> Entry:
    """The micro-run's params.yaml: demo scale, one table for each number of members.

    Archs run on CIFAR-10 where it was fetched: VGG-16 has no use for the digits' 8x8 pixels.
    """
    cut = copy.deepcopy(params)
    demo = cut["scales"]["demo"]
    demo["recipe"], demo["images"], demo["tables"], demo["recipes"] = dict(CUT), 40, {}, {}
    demo["figures"], cut["figures"] = {}, {}
    for entry in values.section(cut, "datasets").values():
        if entry.get("files", NONE) != NONE:  # the micro-run is at home in another folder
            entry["files"] = str(Path(os.path.expanduser(entry["files"])).absolute())

    names = entries_of(cut, kind, name)
    cut["suites"]["micro"] = {"attacks": ["pgd10"]}
    if kind == "archs":
        demo["archs"] = {}
        demo["recipe"] = {**CUT, "epochs": 1, "train_images": 32}
        if has_cifar10:
            del demo["stand_ins"]["cifar10"]
    if kind == "datasets":
        demo["stand_ins"] = {}

    cut["scale"] = "demo"
    cut["tables"] = {
        f"micro{n}": {**TABLE, **change} for n, change in enumerate(_list_tables(cut, kind, names))
    }
    return cut


def _list_tables(params: Entry, kind: str, names: list[str]) -> list[Entry]:
    """What the tables of the micro-run say beside TABLE."""
    if kind == "archs":
        return [{"archs": names}]
    if kind == "datasets":
        return [{"datasets": names, "images": 1}]  # nothing is judged, and a set may be small
    if kind == "attacks":
        return [*_list_attacked(params, names)]

    # One member trains alone whether joint or not, so joint entries get two.
    joint = [n for n in names if _is_joint(params, kind, n)]
    alone = [n for n in names if n not in joint]
    return [{"rows": r, "members": [m]} for r, m in ((alone, 1), (joint, 2)) if r]


def _list_attacked(params: Entry, names: list[str]) -> Iterator[Entry]:
    """Tables of one network, and for attacks that are `only` for some rules of two that have the
    first of these; each with a suite of its own."""
    by_rule: dict[str, list[str]] = {}
    for name in names:
        only = values.inherit(params["attacks"], "attacks", name)[1].get("only", [""])
        by_rule.setdefault(only[0], []).append(name)

    rules = {
        name: values.inherit(params["methods"], "methods", name)[1]["combine"]
        for name in values.section(params, "methods")
    }
    for rule, attacks in by_rule.items():
        suite = f"micro_{rule}" if rule else "micro"
        params["suites"][suite] = {"attacks": attacks}
        rows = [name for name, combine in rules.items() if combine == rule][:1]
        yield {"suites": [suite]} | ({"rows": rows, "members": [2]} if rule else {})


def _is_joint(params: Entry, kind: str, name: str) -> bool:
    entry: dict[str, Any] = values.inherit(values.section(params, kind), kind, name)[1]
    return bool(entry.get("joint", False))
