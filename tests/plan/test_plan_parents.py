"""Edges of the graph: a method's parents and attacks are part of its name and come first."""

import json
import sys

import pytest
from projects import command, copy_project, tiny_params

from pipeline.share import writer

CHILD = '''
"""A method with a parent, an attack of its own and a second net."""
from dataclasses import dataclass
from pipeline.contracts.fields import Arch, Attack, Parent
from pipeline.contracts.method import Method

@dataclass(frozen=True, kw_only=True)
class Child(Method):
    """Fine-tunes."""
    teacher: Parent
    probe: Attack
    net: Arch

    def loss(self, training, index, batch, adversarial):
        """None."""
        return None
'''
ASK = """
import json
from pipeline.plan import load_plan
plan = load_plan()
records, runs = plan.needs(plan.table("table1"))
found = {r.id: [r.entry, list(r.parents), r.spec] for r in runs}
print(json.dumps(found))
"""


def params_with(teacher, probe="pgd10"):
    params = tiny_params()
    own = {"joint": False, "combine": "mean_prob", "teacher": "teacher", "probe": probe}
    params["methods"]["child"] = {**own, "net": "same"}
    params["parents"]["teacher"] = teacher
    params["tables"]["table1"] |= {"rows": ["child"], "reference": "none"}
    return params


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("project"), tiny_params())
    (folder / "pipeline" / "methods" / "child.py").write_text(CHILD)
    return folder


@pytest.fixture
def project(copied):
    writer.write(copied, params_with({"method": "trades", "seed": 9}))
    return copied


def runs(folder):
    """Runs of the table, parents first: entry, parents, spec."""
    done = command(folder, sys.executable, "-c", ASK)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


def child(folder):
    return next(id for id, run in runs(folder).items() if run[0] == "child")


def test_a_parent_is_a_run_of_its_own_and_comes_first(project):
    found = runs(project)
    (teacher, first), (_, second) = found.items()
    assert (first[0], first[2]["seed"], second[0], second[1]) == (
        "trades",
        9000,
        "child",
        [teacher],
    )


def test_what_changes_the_parent_renames_the_child(project):
    before, params = child(project), params_with({"method": "trades", "seed": 9})
    params["methods"]["trades"]["beta"] = 2
    writer.write(project, params)
    assert child(project) != before
    params["methods"]["trades"]["beta"] = 6
    writer.write(project, params)
    assert child(project) == before


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "pgd_at", "seed": 9},
        {"method": "trades", "seed": 8},
        {"method": "trades"},
        {"method": "trades", "seed": 9, "members": 3},
        {"method": "trades", "seed": 9, "checkpoint": "best"},
        {"method": "trades", "seed": 9, "recipe": "meat"},
        {"method": "trades", "seed": 9, "arch": "resnet8"},
        {"method": "trades", "seed": 9, "arch": {"cifar10": "resnet8", "mnist": "resnet20"}},
        {"method": "wa", "seed": 9},
    ],
)
def test_another_parent_is_another_child(keys, project):
    before = child(project)
    writer.write(project, params_with(keys))
    found = runs(project)
    after = next(id for id, run in found.items() if run[0] == "child")
    assert after != before
    assert len(found[after][1]) == keys.get("members", 1) and set(found[after][1]) < set(found)


def test_missing_keys_of_a_parent_are_the_rows(project):
    writer.write(project, params_with({"method": "trades"}))
    found = runs(project)
    (teacher,) = (run[2] for run in found.values() if run[0] == "trades")
    (own,) = (run[2] for run in found.values() if run[0] == "child")
    same = ("data", "arch", "recipe", "members", "seed", "threads")
    assert {k: teacher[k] for k in same} == {k: own[k] for k in same}


def test_the_values_of_its_own_attack_and_net_are_part_of_the_name(project):
    before = child(project)
    params = params_with({"method": "trades", "seed": 9})
    params["attacks"]["pgd10"]["steps"] = 9
    writer.write(project, params)
    assert child(project) != before
    params = params_with({"method": "trades", "seed": 9})
    params["methods"]["child"]["net"] = "resnet8"
    writer.write(project, params)
    assert child(project) != before
    writer.write(project, params_with({"method": "trades", "seed": 9}))
    assert child(project) == before


@pytest.mark.parametrize(
    "teacher, probe, problem",
    [
        ({"method": "child"}, "pgd10", "parents.teacher: would be trained from itself"),
        ({"method": "trades", "arch": "x"}, "pgd10", "parents.teacher.arch: no entry 'x'"),
        ({"method": "trades", "recipe": "x"}, "pgd10", "parents.teacher.recipe: no entry 'x'"),
        (
            {"method": "trades", "members": 0},
            "pgd10",
            "parents.teacher.members: 0 is too few; write 1 or more",
        ),
        ({"method": "trades", "seed": -1}, "pgd10", "parents.teacher.seed: -1 is too few"),
        (
            {"method": "trades", "checkpoint": "x"},
            "pgd10",
            "parents.teacher.checkpoint: 'x' is not",
        ),
        ({"method": "trades"}, "pdg10", "methods.child.probe: no entry 'pdg10' (nearest: pgd10)"),
        ({"method": "trades"}, "members_margin_pgd", "has a surrogate; not for training"),
    ],
)
def test_an_impossible_edge_is_refused(teacher, probe, problem, project):
    writer.write(project, params_with(teacher, probe))
    done = command(project, sys.executable, "-m", "pipeline.plan")
    assert done.returncode == 1 and problem in done.stdout and len(done.stdout.splitlines()) == 1
