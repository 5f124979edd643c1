"""Two branches that each trained something become one: the union, nothing retrained."""

import json
import os
import shutil
from pathlib import Path

import pytest
import sharing_lab as lab
import sharing_origin as home

from pipeline.plan import load_plan
from pipeline.store.files import load_safetensors, save_safetensors, sha256_of

pytestmark = pytest.mark.sharing
TARGETS = (lab.TABLE, home.PAPER)


def add_first(params):
    params["tables"]["table1"]["rows"].insert(0, "trades")


def add_last(params):
    params["tables"]["aute_table2"]["rows"].append("swa")


def add_both(params):
    params["tables"]["table1"]["rows"].append("swa")


def remember(clone, branch):
    lab.run(clone, "record").ok()
    lab.git(clone, "add", "-A")
    lab.commit(clone, branch)
    lab.run(clone, "dvc", "push").ok()
    lab.git(clone, "push", "-q", "origin", f"HEAD:refs/heads/{branch}")


def trained(name, change):
    """A clone in which a row was added, computed, recorded and pushed as a branch."""
    clone = home.fresh(name)
    lab.run(clone, "dvc", "pull").ok()
    lab.edit(clone, change)
    home.build(clone)
    remember(clone, name)
    return clone


@pytest.fixture(scope="module")
def branches():
    left, right = trained("left", add_first), trained("right", add_last)
    return home.listing(left) | home.listing(right), home.manifest(left) | home.manifest(right)


def merger(name):
    """A clone on the right branch that has everything of that branch."""
    clone = home.fresh(name)
    lab.git(clone, "checkout", "-q", "-b", "work", "origin/right")
    lab.run(clone, "dvc", "pull").ok()
    return clone


def check_union(clone, branches):
    assert home.listing(clone) == branches[0]
    assert home.manifest(clone) == branches[1]
    lab.run(clone, "dvc", "pull").ok()
    assert lab.jobs(clone, *TARGETS) == {}
    lab.edit(clone, add_both)  # what either trained is there for every table
    assert lab.jobs(clone, *TARGETS) == {"tabulate": 1}
    home.build(clone)
    text = (clone / lab.TABLE).read_text()
    assert "trades" in text and "swa" in text
    assert lab.jobs(clone, *TARGETS) == {}


def test_make_merge_unites_what_both_trained(branches):
    clone = merger("united")
    lab.run(clone, "merge", "origin/left").ok()
    assert len(lab.git(clone, "rev-list", "--parents", "-1", "HEAD").text.split()) == 3
    check_union(clone, branches)


def test_git_alone_unites_them_with_dvcs_merge_driver(branches):
    clone = merger("driven")
    virtual = Path(lab.PYTHON).parents[1]  # the settings are those that `make setup` makes
    lab.shell(clone, "make", "-s", "drivers", f"VENV={os.path.relpath(virtual, clone)}")
    lab.git(clone, "merge", "-q", "--no-edit", "origin/left")
    check_union(clone, branches)


def test_without_the_driver_the_conflict_says_what_to_do(branches):
    clone = merger("conflict")
    lab.git(clone, "merge", "-q", "--no-edit", "origin/left", check=False)
    text = (clone / "results/runs.dvc").read_text()
    assert "<<<<<<<" in text and "make merge" in text
    refusal = lab.run(clone, "record").fails()
    assert ".dvc: has a merge conflict" in refusal and "make merge" in refusal


def test_a_conflict_of_numbers_is_mended_by_hand_and_the_merge_goes_on():
    clone = home.fresh("numbers")
    for branch, images in (("more", 30), ("fewer", 10)):
        lab.git(clone, "checkout", "-q", "-B", branch, "origin/main")
        lab.edit(clone, lambda p, n=images: p["scales"]["demo"].update(images=n))
        lab.git(clone, "commit", "-qam", branch)
    said = lab.run(clone, "merge", "more").fails()
    assert "params.yaml: in conflict; resolve by hand, `git add`, then the same" in said
    assert "git is merging" in lab.run(clone, "merge", "origin/main").fails()
    assert "params.yaml: in conflict" in lab.run(clone, "merge", "more").fails()
    lab.git(clone, "checkout", "-q", "--theirs", "params.yaml")
    lab.git(clone, "add", "params.yaml")
    lab.run(clone, "merge", "more").ok()
    assert lab.read_params(clone)["scales"]["demo"]["images"] == 30
    assert len(lab.git(clone, "rev-list", "--parents", "-1", "HEAD").text.split()) == 3
    assert home.manifest(clone) == home.manifest(home.origin())


def perturb(folder):
    path = folder / "weights.safetensors"
    tensors, metadata = load_safetensors(path, "")
    metadata = {"format": metadata["format"]}
    save_safetensors(path, {n: t + 1 for n, t in tensors.items()}, metadata)

    beside = folder / "run.time.json"
    told = json.loads(beside.read_text())
    told["sha256"]["weights.safetensors"] = sha256_of(path)
    beside.write_text(json.dumps(told))


def in_folder(clone, function):
    here = Path.cwd()
    os.chdir(clone)
    try:
        return function()
    finally:
        os.chdir(here)


def test_of_a_run_trained_twice_the_first_stays_and_the_losers_record_is_planned_again(branches):
    first, second = home.fresh("first"), home.fresh("second")
    for clone in (first, second):
        lab.run(clone, "dvc", "pull").ok()
        lab.edit(clone, add_first)
        plan = load_plan(clone / "params.yaml")
        (run,) = [r for r in plan.graph.runs.values() if r.entry == "trades"]
        shutil.copytree(home.world() / "left" / run.folder, clone / run.folder)
    remember(first, "first")  # the run alone, not yet attacked
    perturb(second / run.folder)  # as another machine might have trained it
    home.build(second)
    remember(second, "second")
    (record,) = [r for r in plan.graph.records.values() if r.victim.entry == "trades"]
    assert home.manifest(second)[str(record.path)].rests_on

    lab.git(second, "fetch", "-q")
    said = lab.run(second, "merge", "origin/first").ok()
    assert "2 of ours gave way" in said
    assert home.manifest(second)[str(run.folder)] == home.manifest(first)[str(run.folder)]
    assert str(record.path) not in home.manifest(second)
    assert not (second / record.path).exists() and not (second / run.folder).exists()
    lab.run(second, "dvc", "pull", str(run.folder)).ok()
    assert lab.jobs(second, *TARGETS) == {"evaluate": 1, "tabulate": 1}
    home.build(second)
    lab.run(second, "record").ok()
    assert lab.jobs(second, *TARGETS) == {}
