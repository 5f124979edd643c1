"""`python -m pipeline.plan`: the guard's words, --pull, --unused, --equal."""

import json
import shutil

import pytest
import sharing_lab as lab
import sharing_origin as home

from pipeline.plan import load_plan

pytestmark = pytest.mark.sharing
TARGETS = (lab.TABLE, home.PAPER)


def test_the_plan_command_says_what_a_run_would_be_refused_for():
    clone = home.fresh("asked")
    assert "made again" not in lab.run(clone, "plan").ok()
    lab.edit(clone, lambda p: p["scales"]["demo"]["attacks"]["pgd10"].update(steps=4))
    said = lab.run(clone, "plan", lab.TABLE).ok()
    assert "3 runs, 1 data set would be made again" in said
    listed = home.manifest(clone)
    run = next(n for n in listed if "/runs/" in n and "-pgd_at-" in n)
    line = listed[run]
    assert f"{run} ({line.seconds:.1f} s on {line.host})" in said
    assert "dvc pull data/digits/" in said


def test_told_to_retrain_it_does():
    clone = home.fresh("told")
    lab.edit(clone, lambda p: p["tables"]["table1"].update(rows=["standard"], images=10))
    command = ("snakemake", "-q", "rules", "-c1", home.PAPER)
    lab.edit(clone, lambda p: p["tables"]["aute_table2"].update(images=10))
    assert "RETRAIN=yes" in lab.run(clone, *command).fails()
    assert not list((clone / "results").glob("runs/*"))
    lab.run(clone, *command, env={"RETRAIN": "yes"}).ok()
    assert (clone / home.PAPER).exists()


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


def refactor(clone, old, new):
    path = clone / "pipeline/methods/standard.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_proven_refactoring_keeps_its_identity_and_an_unproven_one_does_not():
    clone = home.fresh("refactored")
    lab.run(clone, "dvc", "pull").ok()
    source = (clone / "pipeline/methods/standard.py").read_text()
    body = source[source.index("        return ") :]
    refactor(
        clone, body, body.replace("        return ", "        found = ") + "        return found\n"
    )
    assert lab.jobs(clone, home.PAPER) == {"train": 1, "evaluate": 1, "tabulate": 1}
    said = lab.run(clone, "plan", "--equal", "methods/standard").ok()
    assert "agree to the byte" in said
    assert lab.jobs(clone, *TARGETS) == {}
    known = json.loads((clone / "pipeline/plan/equal.json").read_text())
    (evidence,) = known["methods/standard"].values()
    assert {n.split("/")[1] for n in evidence["results"]} == {
        "best.safetensors",
        "weights.safetensors",
    }

    refactor(clone, "return found", "return 2 * found")
    said = lab.run(clone, "plan", "--equal", "methods/standard").fails()
    assert "computes something else" in said and "keeps its new identity" in said
    assert json.loads((clone / "pipeline/plan/equal.json").read_text()) == known
    assert lab.jobs(clone, home.PAPER)["train"] == 1
    shutil.rmtree(clone / "logs", ignore_errors=True)
