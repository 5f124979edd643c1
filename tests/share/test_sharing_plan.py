"""`python -m pipeline.plan`: the guard's words, --pull, --unused."""

import pytest
import sharing_lab as lab
import sharing_origin as home

from pipeline.plan import load_plan
from pipeline.share import unused

pytestmark = pytest.mark.sharing
TARGETS = (lab.TABLE, home.PAPER)


def test_the_plan_command_says_what_a_run_would_be_refused_for():
    clone = home.fresh("asked")
    assert "made again" not in lab.run(clone, "plan").ok()
    lab.edit(clone, lambda p: p["scales"]["demo"]["attacks"]["pgd10"].update(steps=4))
    said = lab.run(clone, "plan", lab.TABLE).ok()
    assert "1 data set, 2 trainings, 1 average would be made again" in said
    listed = home.manifest(clone)
    run = next(n for n in listed if "/runs/" in n and "-pgd_at-" in n)
    line = listed[run]
    assert f"{run} ({line.seconds:.1f} s on {line.host})" in said
    assert "dvc pull data/digits/" in said


def test_told_to_retrain_it_does():
    clone = home.fresh("told")
    lab.run(clone, "dvc", "pull", "data/digits").ok()
    plan = load_plan(clone / "params.yaml")
    (run,) = [r for r in plan.graph.runs.values() if r.entry == "standard"]
    weights = run.folder / "weights.safetensors"
    command = ("snakemake", "-q", "rules", "-c1", str(weights))
    assert "RETRAIN=yes" in lab.run(clone, *command).fails()
    assert not list((clone / "results").glob("runs/*"))
    said = lab.run(clone, *command, env={"RETRAIN": "yes"}).ok()
    assert "1 training recorded already will be made again" in said
    assert (clone / weights).exists()


def folders(clone, pattern):
    return sorted(str(p.relative_to(clone)) for p in clone.glob(pattern))


def test_pull_fetches_records_for_a_table_and_weights_for_an_attack():
    clone = home.fresh("fetch")
    assert "nothing to pull" in lab.run(clone, "plan", lab.TABLE, "--pull").ok()
    lab.edit(clone, lambda p: p["tables"]["aute_table2"].update(columns=["pgd10"]))
    lab.run(clone, "plan", home.PAPER, "--pull").ok()
    assert len(folders(clone, "results/records/*/*.npz")) == 1
    assert not folders(clone, "results/runs/*") and not folders(clone, "data/digits/*")
    lab.edit(clone, lambda p: p["scales"]["demo"]["attacks"]["pgd10"].update(steps=4))
    lab.run(clone, "plan", home.PAPER, "--pull").ok()
    assert [n.split("-")[2] for n in folders(clone, "results/runs/*")] == ["standard"]
    assert lab.jobs(clone, home.PAPER) == {"evaluate": 1, "tabulate": 1}


def test_unused_lists_what_no_table_needs_and_removes_nothing():
    clone = home.fresh("tidy")
    lab.run(clone, "dvc", "pull").ok()
    assert "nothing" in lab.run(clone, "plan", "--unused").ok()
    lab.edit(clone, lambda p: p["tables"]["table1"].update(rows=["standard"]))
    said = lab.run(clone, "plan", "--unused").ok()
    plan = load_plan(home.origin() / "params.yaml")
    for run in plan.graph.runs.values():
        assert (str(run.folder) in said) == (run.entry != "standard")
        assert (clone / run.folder).exists()
    assert "4 artifacts that no table needs" in said  # two runs, two records
    assert "dvc gc --workspace --all-commits frees what no commit here lists" in said
    with (clone / ".dvc/config.local").open("a") as file:
        file.write(f"    dir = {home.world() / 'group'}\n")
    said = lab.run(clone, "plan", "--unused").ok()
    assert "--projects with every clone" in said and "--all-commits" not in said


def test_what_is_no_artifact_is_never_listed_as_unused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = ["data/birds/0123456789", "data/raw/birds", "results/snapshots/digits-a"]
    for name in [*ours, "data/birds/train", "data/reported/paper", "data/raw/birds.mine"]:
        (tmp_path / name).mkdir(parents=True)
    assert unused.present() == set(ours)


def test_a_pull_that_finds_nothing_says_why_and_what_to_do():
    clone = home.fresh("nothing")
    (clone / home.PAPER).unlink()
    for command, said in (
        (("remote", "modify", "share", "url", "../empty"), "nor in the remote: ask who recorded"),
        (("remote", "remove", "share"), "no remote to pull from: dvc remote add --default share"),
    ):
        lab.run(clone, "dvc", *command).ok()
        text = lab.run(clone, "plan", home.PAPER, "--pull").fails()
        assert said in text and "; the line was: dvc pull" in text and "ERROR" not in text
        assert len(text.splitlines()) == 1, text
