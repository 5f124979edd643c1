"""An edited value renames exactly what depends on it, and edited back everything has its name.

What a cell depends on is found here a second time, from the text's grammar alone.
PLAN_EDITS sets how many leaves are edited (default 120; there are about 900).
"""

import copy
import functools
import json
import os
import random

import pytest
from projects import published

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.params.checks import BESIDE
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.schema import component

EDITS = int(os.environ.get("PLAN_EDITS", "120"))
SECTIONS = ("core", "datasets", "archs", "recipes", "attacks", "methods", "averages", "victims")
SECTIONS += ("suites", "resources")
LEFT = ("base", "of", "method", "images", "uncut", *BESIDE["archs"])  # edges; in no name
ROWS = (
    "pgd_at",
    "pgd_at_joint",
    "trades",
    "aute_released",
    "soe",
    "at_aka",
    "red",
    "meat",
    "last_bn",
)
ROWS += ("pgd_at_single", "overconfident", "red_averaged")


@functools.cache
def base():
    """Paper scale, so that nothing is cut or stands in; one table of a dozen rows."""
    params = published() | {"scale": "paper"}
    table = params["tables"]["table1"]
    table |= {"rows": list(ROWS), "seeds": [0], "reported": "none"}
    table |= {"columns": ["clean"], "suites": ["core", "own"]}
    params["suites"] = {k: params["suites"][k] for k in ("core", "meat")}
    attacks = ["fgsm", "members_margin_pgd", "chosen_gate", "pgd100"]
    params["suites"]["own"] = {"attacks": attacks}
    params["tables"], params["figures"] = {"table1": table}, {}
    for scale in params["scales"].values():
        scale.pop("tables", None)
        scale.pop("figures", None)
    return params


# ---- what a cell depends on, by the grammar


def merged(params, section, name):
    entry = params[section][name]
    own = {k: v for k, v in entry.items() if k != "base"}
    return {**merged(params, section, entry["base"]), **own} if "base" in entry else own


def root(params, section, name):
    entry = params[section][name]
    return root(params, section, entry["base"]) if "base" in entry else name


def attack(params, name, with_surrogate):
    if name == "none":
        return None
    found = merged(params, "attacks", name)
    surrogate = found.pop("surrogate", "self")
    found.pop("only", None)
    return [name, found, surrogate] if with_surrogate else found


def suite(params, name, rule):
    """The attacks of a suite that are for victims of this rule, and what else it says."""
    entry = dict(params["suites"][name])
    all_of_them = entry.pop("attacks")
    wanted = [a for a in all_of_them if rule in merged(params, "attacks", a).get("only", [rule])]
    return [entry, [attack(params, a, True) for a in wanted]]


def training(params, name, members):
    """What decides the weights of method `name`'s runs."""
    found, table = merged(params, "methods", name), params["tables"]["table1"]
    members = found.pop("members", members)
    recipe = {**merged(params, "recipes", table["recipe"])}
    recipe |= {k: found.pop(k) for k in [*found] if k in recipe}
    types = component("methods", root(params, "methods", name)).types
    joint = found["joint"] and members > 1
    if not joint:
        del found["joint"], found["combine"]
    named = {k: found[k] for k, t in types.items() if t == "Arch"}
    archs = {k: merged(params, "archs", v) for k, v in named.items() if v != "same"}
    crafting = [attack(params, recipe.pop(k), False) for k in ("attack", "validation_attack")]
    data = [merged(params, "datasets", "cifar10"), params["core"]["prepare"]]
    net = merged(params, "archs", "resnet20")
    return [params["core"]["train"], data, net, found, recipe, crafting, archs, joint, members]


def dependencies(params, row):
    """What decides a row's trainings, its averages, and its records."""
    table, changes = params["tables"]["table1"], {}
    members, of, average = table["members"][0], row, None
    if of in params["victims"]:
        changes = merged(params, "victims", of)
        of, members = changes.pop("of"), changes.pop("members", members)
    if of in params["averages"]:
        fields = merged(params, "averages", of)
        of, members = fields.pop("method"), fields.pop("members", members)
        average = [params["core"]["average"], fields]
    trained = training(params, of, members)
    method = merged(params, "methods", of)
    count = method.get("members", members)
    rule = changes.pop("combine", method["combine"]) if count > 1 else "single"
    changes.setdefault("logit_scale", 1)
    suites = [suite(params, s, rule) for s in table["suites"]]
    shown = [trained, average, count, rule, changes, suites, params["core"]["evaluate"]]
    return [json.dumps(part, sort_keys=True) for part in (trained, [trained, average], shown)]


# ---- what the plan names


def names(params):
    """Ids of each row's trainings, of its runs, and of its records."""
    plan, found = Plan(params), {}
    for cell in plan.table("table1").cells:
        runs = [plan.run(e.run) for e in cell.victim.elements]
        trained = [r.parents[0] if r.stage == "average" else r.id for r in runs]
        records = sorted(r.id for r in cell.records.values())
        found[cell.row] = [trained, [r.id for r in runs], records]
    return found


# ---- edits


def leaves():
    found = []
    for section in SECTIONS:
        for name, entry in base()[section].items():
            keys = entry if isinstance(entry, dict) else [None]
            found += [(section, name, key) for key in keys if key not in LEFT]
    return found


def edited(value, draw):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value[:-1], edited(value[-1], draw)] if value else value
    head, slash, tail = value.partition("/")
    if slash:
        return f"{head}/{int(tail) + 1}"
    return draw.choice([*base()["attacks"], "vote", "best", "none"])


def with_edit(leaf, draw):
    """The parameters with one leaf changed, or None when the new value is no legal one."""
    section, name, key = leaf
    params = copy.deepcopy(base())
    place, key = (params[section], name) if key is None else (params[section][name], key)
    place[key] = edited(place[key], draw)
    try:
        Plan(params)
    except UserError:
        return None
    return params


def test_an_edit_renames_exactly_what_depends_on_it():
    draw = random.Random(0)
    before, needs = names(base()), {row: dependencies(base(), row) for row in ROWS}
    renamed = kept = 0
    for leaf in draw.sample(leaves(), min(EDITS, len(leaves()))):
        params = with_edit(leaf, draw)
        if params is None:
            continue
        after = names(params)
        for row in ROWS:
            depends = dependencies(params, row)
            for stage in range(3):
                changed = after[row][stage] != before[row][stage]
                assert changed == (depends[stage] != needs[row][stage]), (leaf, row, stage)
                renamed, kept = renamed + changed, kept + (not changed)
    assert min(renamed, kept) > min(EDITS, 100)
    assert names(copy.deepcopy(base())) == before


@pytest.mark.parametrize(
    "section, name, first, second",
    [
        ("recipes", "unified", "lr", "momentum"),
        ("attacks", "apgd", "steps", "eot"),
        ("methods", "aute", "margin", "beta"),
        ("methods", "aute", "adp_entropy", "adp_volume"),
    ],
)
def test_two_swapped_values_are_noticed(section, name, first, second):
    params = copy.deepcopy(base())
    entry = params[section][name]
    entry[first], entry[second] = entry[second], entry[first]
    changed = {row for row, ids in names(params).items() if ids != names(base())[row]}
    assert changed == {r for r in ROWS if dependencies(params, r) != dependencies(base(), r)}
    assert changed


# ---- seeds and members


def victim(plan, name, members, seed):
    setting = Setting("cifar10", "resnet20", "unified", members, seed)
    return plan.name_victim(name, setting)


def test_a_small_ensemble_is_part_of_a_larger_one():
    plan = Plan(base())
    runs = {k: [e.run for e in victim(plan, "pgd_at", k, 0).elements] for k in (1, 3, 5, 8)}
    assert [len(set(runs[k])) for k in runs] == [1, 3, 5, 8]
    assert set(runs[1]) < set(runs[3]) < set(runs[5]) < set(runs[8])
    joint = [victim(plan, "pgd_at_joint", k, 0).elements for k in (3, 5, 8)]
    assert [len(elements) for elements in joint] == [1, 1, 1] and len(set(joint)) == 3


def test_replicates_share_no_member():
    plan = Plan(base())
    runs = [e.run for seed in range(4) for e in victim(plan, "trades", 8, seed).elements]
    seeds = [plan.run(run).spec["seed"] for run in runs]
    assert len(set(runs)) == len(set(seeds)) == 32
    assert seeds[:3] == [0, 1, 2] and seeds[8:10] == [1000, 1001]


def test_jointly_and_independently_trained_is_the_same_for_one_member():
    plan = Plan(base())
    (joint,), (alone,) = (victim(plan, name, 1, 0).elements for name in ("pgd_at_joint", "pgd_at"))
    assert plan.run(joint.run).spec == plan.run(alone.run).spec
