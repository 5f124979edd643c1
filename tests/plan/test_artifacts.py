"""Finished means one thing to everyone, of every kind of artifact at every completeness."""

import json
import re
from itertools import combinations

import pytest
import torch
from projects import ROOT, tiny_params

from pipeline import adopt, average, evaluate, figure, train, transfer
from pipeline.cluster import pack
from pipeline.errors import UserError
from pipeline.plan import Snapshots, load_plan, workflow
from pipeline.plan.graph.targets import Figure, Table, walk
from pipeline.plan.state import HAVE, NEED, closure, states
from pipeline.share import writer
from pipeline.share.finished import on_disk, verify
from pipeline.store import lease
from pipeline.store.files import save_safetensors
from pipeline.store.receipts import write_target
from pipeline.tables.making import status_of

FILE = {"of": "file", "file": "net.pt", "sha256": "0" * 64, "method": "standard", "members": 1,
        "mean": [0], "std": [1], "dataset": "digits"}  # fmt: skip
PLOT = {"kind": "histogram", "title": "Margins", "table": "table1", "rows": ["trades"],
        "suites": ["unified"], "where": {}, "columns": ["clean"], "bins": 9}  # fmt: skip
DRAWN = {"kind": "regions", "title": "Regions", "table": "table1", "rows": ["trades"],
         "suites": [], "where": {}, "radius": "8/255", "half": 5, "shown": 1,
         "seed": 0}  # fmt: skip
# kind of artifact -> the job's module and what it calls when there is something to do
JOBS = {
    "train": (train, "train"),
    "average": (average, "make_average"),
    "adopt": (adopt, "adopt"),
    "transfer": (transfer, "craft"),
    "evaluate": (evaluate, "evaluate"),
    "plot": (figure, "draw"),
    "figure": (figure, "draw"),
}


def params():
    """A plan with an artifact of every kind."""
    found = tiny_params()
    found["victims"] |= {"mine": FILE, "other": {"of": "trades", "seed": 7}}
    found["suites"]["moved"] = {"attacks": ["fgsm"], "surrogates": ["other"]}
    table = found["tables"]["table1"]
    table["rows"] = [*table["rows"], "mine"]
    table["suites"] = [*table["suites"], "moved"]
    found["figures"] = {"margins": PLOT, "regions": DRAWN}
    return found


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    writer.write(folder, params())
    return load_plan(folder / "params.yaml")


KINDS = ("prepare", "train", "average", "adopt", "trajectory", "transfer", "evaluate", "tabulate",
         "plot", "figure")  # fmt: skip


def one_of(plan, stage):
    """An artifact of a stage, and one that is made of it."""
    everything = walk(plan.graph, plan.targets.values())
    artifact = next(a for a in everything if a.stage == stage)
    return artifact, [a for a in everything if artifact in a.inputs(plan.graph)]


def make(artifact, missing=()):
    """All of an artifact's files but some."""
    if isinstance(artifact, Table | Figure):
        receipt = artifact.path.with_suffix(".json")
        about = {"plan": artifact.digest, "scale": "demo", "rests_on": {}}
        files = {path: b"made" for path in artifact.outputs if path != receipt}
        write_target(receipt, {"receipt": about}, files)
    for path in artifact.outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path in missing:
            path.unlink(missing_ok=True)
        elif not path.exists():
            path.write_text("{}")


def does_something(plan, artifact, monkeypatch):
    """Whether the artifact's job finds something to do."""
    module, name = JOBS[artifact.stage]
    called = []
    with monkeypatch.context() as patched:
        loading = "load_part" if hasattr(module, "load_part") else "load_plan"
        patched.setattr(module, loading, lambda *names: plan)
        patched.setattr(module, name, lambda *args: called.append(args))
        module.main([str(artifact.path)])
    return bool(called)


@pytest.mark.parametrize("stage", KINDS)
def test_an_artifact_is_finished_to_everyone_or_to_none(stage, plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact, users = one_of(plan, stage)
    if isinstance(artifact, Snapshots):
        make(artifact.run)
    subsets = (
        s for n in range(len(artifact.outputs) + 1) for s in combinations(artifact.outputs, n)
    )
    for missing in subsets:
        for path in artifact.outputs:
            path.unlink(missing_ok=True)
        make(artifact, missing)
        is_here = not missing

        assert artifact.is_here() == is_here, missing
        assert (artifact.path.as_posix() in closure(plan, [artifact], {}).compute) != is_here
        listed = {(s.stage, s.id): s.status for s in states(plan, [artifact])}
        if stage not in ("tabulate", "plot", "trajectory"):  # the last is listed where it is lost
            assert listed[stage, artifact.id] == (HAVE if is_here else NEED)
        for user in users:  # every file is asked of Snakemake, which so sees the hole
            wildcards = wildcards_of(user)
            assert set(map(str, artifact.outputs)) <= set(
                workflow.inputs(plan, user.stage, wildcards)
            )
        if stage in JOBS:
            assert does_something(plan, artifact, monkeypatch) != is_here
        if stage == "train":
            assert pack.is_trained(artifact) == is_here


def wildcards_of(artifact):
    """What Snakemake calls the job of an artifact."""
    victim, _, suite = artifact.id.partition("/")
    found = {"run": artifact.id, "set": artifact.id, "victim": victim, "suite": suite}
    found |= {"folder": "", "table": artifact.id, "figure": artifact.id, "dataset": artifact.id}
    if isinstance(artifact, Snapshots):
        found |= {"run": artifact.run.id, "epoch": str(artifact.first)}
    return found


@pytest.mark.parametrize("stage", KINDS)
def test_a_rule_writes_exactly_the_outputs_of_its_artifact(stage, plan):
    artifact, _ = one_of(plan, stage)
    source = "".join(path.read_text() for path in (ROOT / "pipeline/rules").glob("*.smk"))
    (rule,) = re.findall(rf"rule {stage}:\n(.*?)\n    log:", source, re.DOTALL)
    _, _, outputs = rule.partition("    output:\n")
    patterns = re.findall(r'"((?:results|data)/[^"]*)"', outputs)
    if "jobs.run_outputs(" in outputs:
        assert f'"{stage}"' in outputs
        patterns = list(workflow.run_outputs(stage).values())
    values = wildcards_of(artifact) | {"digest": artifact.path.name}
    # A file of metrics for each row, which no pattern names
    rows = artifact.metrics.values() if stage == "tabulate" else ()
    outputs = set(artifact.outputs) - set(rows)
    assert {p.format(**values) for p in patterns} == set(map(str, outputs))


def test_a_training_with_a_hole_keeps_its_resume_state_and_counts_as_not_built(
    plan, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run, _ = one_of(plan, "train")
    record = next(r for r in plan.graph.records.values() if r.victim.elements[0].run == run.id)
    log = tmp_path / "logs/train" / f"{run.id}.log"
    log.parent.mkdir(parents=True)
    log.write_text("# head\n1/2 loss 2.3\n")
    run.work.mkdir(parents=True)
    make(run, [run.checkpoint("best")])
    workflow.sweep(plan)
    assert run.work.exists() and status_of(plan, [record]) == "failed"  # its log is asked
    make(run)
    workflow.sweep(plan)
    assert not run.work.exists() and status_of(plan, [record]) == "not built"


def test_a_training_that_is_made_once_more_keeps_its_resume_state(plan, tmp_path, monkeypatch):
    """A workflow that ended badly swept away the state of a derivation of lost epochs."""
    monkeypatch.chdir(tmp_path)
    snapshots, (average_of_it,) = one_of(plan, "trajectory")
    run = snapshots.run
    make(run)
    run.work.mkdir(parents=True)
    workflow.sweep(plan)
    assert run.work.exists()  # the average waits for its epochs

    make(average_of_it)
    with lease.hold(f"runs/{run.id}"):  # by hand
        workflow.sweep(plan)
        assert run.work.exists()
    workflow.sweep(plan)
    assert not run.work.exists()


def test_a_trajectory_needs_the_data_and_the_whole_training(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshots, (average_of_it,) = one_of(plan, "trajectory")
    files = workflow.inputs(plan, "trajectory", wildcards_of(snapshots))
    assert set(map(str, (*snapshots.run.dataset.outputs, *snapshots.run.outputs))) == set(files)
    make(average_of_it)
    assert workflow.inputs(plan, "average", wildcards_of(average_of_it)) == []  # asks for nothing


def test_what_is_made_of_what_is_walked_in_order_and_once(plan):
    everything = walk(plan.graph, plan.targets.values())
    places = {id(artifact): n for n, artifact in enumerate(everything)}
    assert len({a.path for a in everything}) == len(everything)
    for artifact in everything:
        for part in artifact.inputs(plan.graph):
            same = next(a for a in everything if a == part)
            assert places[id(same)] < places[id(artifact)]


def test_make_record_takes_a_training_only_with_all_of_its_files(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = one_of(plan, "train")
    run.folder.mkdir(parents=True)
    said = {"id": run.id, "spec": run.spec, "flops": 0, "inherited": {}}
    (run.folder / "run.json").write_text(json.dumps(said))
    (run.folder / "history.csv").touch()
    save_safetensors(run.weights, {"0.w": torch.zeros(1)}, {})
    (found,) = on_disk()
    with pytest.raises(UserError, match=r"best\.safetensors: is missing"):
        verify(found)
    save_safetensors(run.checkpoint("best"), {"0.w": torch.zeros(1)}, {})
    (found,) = on_disk()
    assert verify(found) == {} and set(found.files) == set(run.outputs)
