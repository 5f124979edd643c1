"""`python -m pipeline.plan --equal`: a refactoring keeps its identity when its bytes agree."""

import json
import sys
from pathlib import Path

import pytest
import sharing_lab as lab
import sharing_origin as home

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.params.reader import read
from pipeline.share import equal
from pipeline.share.micro import params_for

pytestmark = pytest.mark.sharing
EQUAL = "pipeline/share/equal.json"
# what ends a file, so that a name for the result is a refactoring; and what changes the result
CASES = {
    "methods/standard": ("return found", "return 2 * found"),
    "attacks/fgsm": ("return found", "return (found + images) / 2"),
    "averages/last": ("return found", "return 2 * found"),
    "archs/small_cnn": ("else 1", "else 2"),
    "datasets/digits": ("np.rint", "np.floor"),
}
FILES = {
    "methods/standard": {"best.safetensors", "weights.safetensors"},
    "attacks/fgsm": {"micro"},
    "averages/last": {"best.safetensors", "weights.safetensors"},
    "archs/small_cnn": {"best.safetensors", "weights.safetensors"},
    "datasets/digits": {"test.safetensors", "train.safetensors", "validation.safetensors"},
}


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def name_the_result(path):
    """Give the last method's result a name: other code, the same bytes."""
    text = path.read_text()
    start = text.rindex("        return ")
    body = text[start:].partition("\n\n")[0].rstrip("\n")
    named = body.replace("        return ", "        found = ", 1) + "\n        return found"
    path.write_text(text.replace(body, named, 1))


def code(clone, component):
    """The identity that the clone's plan gives a component."""
    kind, _, name = component.partition("/")
    text = (
        f"from pipeline.plan.params import schema; print(schema.component({kind!r}, {name!r}).code)"
    )
    return lab.shell(clone, lab.PYTHON, "-c", text).text.strip()


@pytest.mark.parametrize(
    "component",
    [
        "methods/standard",
        "datasets/digits",
        # trained as the method is, and compared in the same way
        pytest.param("attacks/fgsm", marks=pytest.mark.thorough),
        pytest.param("averages/last", marks=pytest.mark.thorough),
        pytest.param("archs/small_cnn", marks=pytest.mark.thorough),
    ],
)
def test_a_proven_refactoring_keeps_its_identity_and_an_unproven_one_does_not(component):
    clone = home.fresh(component.replace("/", "-"))
    path = clone / f"pipeline/{component}.py"
    before = code(clone, component)
    assert "nothing to prove" in lab.run(clone, "plan", "--equal", component).ok()
    name_the_result(path)
    assert code(clone, component) != before
    said = lab.run(clone, "plan", "--equal", component).ok()
    assert "agree to the byte" in said
    assert code(clone, component) == before
    known = json.loads((clone / EQUAL).read_text())
    (evidence,) = known[component].values()
    assert {n.split("/")[1] for n in evidence["results"]} == FILES[component]

    (kept,) = (clone / "work" / "equal").iterdir()  # of the commit, for the next proof
    made = kept.stat().st_mtime_ns
    replace(path, *CASES[component])
    said = lab.run(clone, "plan", "--equal", component).fails()
    assert "computes something else" in said and "keeps its new identity" in said
    assert json.loads((clone / EQUAL).read_text()) == known
    assert code(clone, component) != before
    assert kept.stat().st_mtime_ns == made


def test_a_proven_refactoring_runs_nothing_in_snakemake():
    clone = home.fresh("refactored")
    name_the_result(clone / "pipeline/methods/standard.py")
    changed = code(clone, "methods/standard")
    assert lab.jobs(clone, home.PAPER) != {}
    lab.git(clone, "checkout", "-q", "pipeline")
    before = code(clone, "methods/standard")
    name_the_result(clone / "pipeline/methods/standard.py")
    (clone / EQUAL).write_text(json.dumps({"methods/standard": {changed: {"as": before}}}))
    assert lab.jobs(clone, lab.TABLE, home.PAPER) == {}


def test_archs_are_compared_on_cifar10_where_it_was_fetched():
    params = read(lab.ROOT / "params.yaml")
    without = params_for(params, "archs", "vgg16", False)["scales"]["demo"]["stand_ins"]
    having = params_for(params, "archs", "vgg16", True)["scales"]["demo"]["stand_ins"]
    assert set(without) - set(having) == {"cifar10"}


def test_own_data_are_run_where_they_lie_and_a_base_without_files_is_not():
    params = read(lab.ROOT / "params.yaml")
    with pytest.raises(UserError, match="datasets: no entry of npz names `files`; add one"):
        params_for(params, "datasets", "npz", False)
    params["datasets"]["mine"] = {"base": "npz", "files": "../mine.npz"}
    made = params_for(params, "datasets", "npz", False)
    assert made["tables"]["micro0"]["datasets"] == ["mine"]
    assert made["datasets"]["mine"]["files"] == str(Path("../mine.npz").absolute())
    assert params["datasets"]["mine"]["files"] == "../mine.npz"
    assert {run.dataset.name for run in Plan(made).graph.runs.values()} == {"mine"}


def test_attacks_for_some_rules_run_on_rows_that_have_one():
    params = read(lab.ROOT / "params.yaml")
    for name, rules in (("members_arc", {"random_one"}), ("pgd", {"single"}),
                        ("members_pgd", {"random_one", "max_conf"})):  # fmt: skip
        plan = Plan(params_for(params, "attacks", name, False))
        met = {}
        for cell in (cell for table in plan.tables.values() for cell in table.cells):
            (record,) = cell.records.values()
            met |= {attack: cell.victim.combine for attack, _ in record.attacks}
        assert met and set(met.values()) == rules, name


def test_a_micro_run_that_was_killed_is_one_line(tmp_path):
    with pytest.raises(UserError, match="failed in the new tree: ended with code -9$"):
        tree = tmp_path / "new"
        tree.mkdir()
        equal._run(tree, [sys.executable, "-c", KILLED])


KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
