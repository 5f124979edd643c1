"""Every number of params.yaml: which artifacts it changes, and that DVC's stages hear of it."""

import re

import pytest
import sharing_lab as lab
import sharing_origin as home
import yaml

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.params.checks import BESIDE
from pipeline.plan.params.reader import read

pytestmark = pytest.mark.sharing
TARGETS = (lab.TABLE, home.PAPER)
COMPONENTS = ("datasets", "archs", "attacks", "recipes", "methods", "averages", "parents")


def leaves(value, path=()):
    """Paths to everything that is no mapping."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def at(params, path):
    for key in path:
        params = params[key]
    return params


def words(params):
    """Every word that stands under a key somewhere in the file."""
    found = {}
    for path in leaves(params):
        word = at(params, path)
        if isinstance(word, str) and "/" not in word:
            found.setdefault(path[-1], {})[word] = None
    return found


def replaced(params, path, value):
    """The same mapping with another value there; the rest is shared."""
    head, *rest = path
    return {**params, head: replaced(params[head], rest, value) if rest else value}


def others(value, known=()):
    """Values of the same kind, likeliest to be allowed first; words are taken from the file."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value]
    if isinstance(value, float):
        return [value / 2, value + 0.25]
    if isinstance(value, str) and re.fullmatch(r"(eps|\d+)/\d+", value):
        head, _, tail = value.partition("/")
        return [f"{head}/{int(tail) + 1}"]
    if isinstance(value, list) and value:
        return [value[:-1], [*value[:-1], *others(value[-1])[:1]], value[::-1]]
    return [w for w in known if w != value]


def changed(params, path, known):
    """A plan with this leaf changed; None when every change tried is refused."""
    for value in others(at(params, path), known.get(path[-1], ())):
        try:
            return Plan(replaced(params, path, value))
        except UserError:
            continue
    return None


def artifacts(plan):
    runs = set(plan.graph.runs)
    return runs, set(plan.graph.records), {(n, t.digest) for n, t in plan.tables.items()}


def chain(params, kind, name):
    """An entry and what it is based on."""
    found = [name]
    while "base" in params[kind][found[-1]]:
        found.append(params[kind][found[-1]]["base"])
    return found


def merged(params, kind, name):
    """An entry with what it is based on."""
    found = {}
    for part in reversed(chain(params, kind, name)):
        found |= params[kind][part]
    return found


def users(params, plan, path):
    """Ids of runs and records that could hear of a leaf of an entry, by following names only."""
    kind, entry = path[:2]
    recipes = {t["recipe"] for t in params["tables"].values()}

    def uses(run):
        if any(uses(plan.run(parent)) for parent in run.parents):
            return True
        if run.stage == "average":
            return kind == "averages" and entry in chain(params, kind, run.entry)
        names = {"methods": [run.entry], "datasets": [run.dataset.name], "recipes": recipes}
        names["archs"] = [run.id.split("-")[1]]
        method = merged(params, "methods", run.entry)
        trained = [merged(params, "recipes", r) for r in recipes]
        named = [v for v in method.values() if isinstance(v, str) and v in params["parents"]]
        names["parents"] = named
        crafted = {method.get("attack", "none")} | {
            r[key] for r in trained for key in ("attack", "validation_attack")
        }
        names["attacks"] = crafted - {"none"}
        return any(entry in chain(params, kind, n) for n in names.get(kind, []))

    runs = {r.id for r in plan.graph.runs.values() if uses(r)}

    def hears(record):
        sets = [plan.set(id) for id in record.sets]
        names = [name for name, _ in record.attacks if name in params["attacks"]]
        names += [made.name for made in sets]
        if kind == "attacks" and any(entry in chain(params, kind, name) for name in names):
            return True
        victims = [record.victim, *(made.surrogate for made in sets)]
        if any(e.run in runs for victim in victims for e in victim.elements):
            return True
        return record.before is not None and hears(plan.graph.records[record.before])

    records = {record.id for record in plan.graph.records.values() if hears(record)}
    return runs, records


STOP = "stop_when_fooled"  # what `after` goes on from must say whom it fooled
ROWS = ["standard", "pgd_at_single", "aute", "at_aka", "meat", "overconfident"]


def one_table(params):
    """The same file with one table of a few rows: a plan for every leaf takes time."""
    params["tables"] = {"table1": {**params["tables"]["table1"], "rows": ROWS, "members": [2]}}
    params["figures"] = {}
    for scale in params["scales"].values():
        scale.pop("tables", None)
        scale.pop("figures", None)
    return params


def test_every_leaf_changes_what_uses_it_and_nothing_else(monkeypatch):
    # entries that no table uses are checked elsewhere, and take two thirds of the time
    monkeypatch.setattr("pipeline.plan.audit", lambda graph: None)
    params = one_table(read(lab.ROOT / "params.yaml"))
    before = Plan(params)
    runs, records, tables = artifacts(before)
    stages = yaml.safe_load((lab.ROOT / "dvc.yaml").read_text())["stages"]
    assert all("params.yaml" in (s.get("do") or s)["deps"] for s in stages.values())
    moved, still, refused, known = 0, 0, [], words(params)
    for path in leaves(params):
        after = changed(params, path, known)
        if after is None:
            refused.append(path)
            continue
        now = artifacts(after)
        gone = runs - now[0], records - now[1], tables - now[2]
        if any(gone):
            moved += 1
            assert gone[2], path  # no run or record changes without its table
        else:
            still += 1
        chooses = path[0] == "attacks" and path[-1] in ("base", "only")  # whom it is for
        if path[0] in COMPONENTS and not chooses:
            may = users(params, before, path)
            assert gone[0] <= may[0], (path, gone[0] - may[0])
            assert gone[1] <= may[1], (path, gone[1] - may[1])
        if path[0] in ("mirror", "resources") or path[-1] in BESIDE["archs"]:
            assert not any(gone), path
    assert moved > 50 and still > 100
    numbers = [p for p in refused if isinstance(at(params, p), int | float)]
    allowed = {("archs", "depth"), ("suites", STOP), ("methods", "joint")}  # what cannot be
    assert {p[:1] + p[-1:] for p in numbers} <= allowed, numbers
    assert len(refused) < (moved + still) / 4


SAMPLED = {
    ("scales", "demo", "attacks", "mim50", "steps"): 7,
    ("recipes", "unified", "momentum"): 0.8,
    ("methods", "standard", "combine"): "vote",
    ("averages", "wa", "start"): 120,
    ("attacks", "fgsm", "eps"): "9/255",
}
JOBS = [
    {"evaluate": 3, "tabulate": 2},
    {"train": 2, "trajectory": 1, "average": 1, "evaluate": 3, "tabulate": 2},
    {},
    {"trajectory": 1, "average": 1, "evaluate": 1, "tabulate": 1},
    {},
]


def test_five_leaves_through_both_command_lines():
    clone = home.fresh("leaves")
    lab.run(clone, "dvc", "pull").ok()
    for (path, value), wanted in zip(SAMPLED.items(), JOBS, strict=True):

        def change(params, path=path, value=value):
            assert at(params, path) != value
            at(params, path[:-1])[path[-1]] = value

        old = lab.edit(clone, change)
        found = lab.jobs(clone, *TARGETS)
        status = lab.run(clone, "dvc", "status").ok()
        (clone / "params.yaml").write_text(old)
        assert found == wanted, path
        for stage in ("unified:", "paper@aute:") if wanted else ():
            assert stage in status, path
