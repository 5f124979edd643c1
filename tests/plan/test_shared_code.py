"""Shared code that changed since a result was made is named before any job, with two ways out."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from projects import command, copy_project, edit

from pipeline import evaluate, train, transfer
from pipeline.plan import Plan, shared
from pipeline.plan.params import references
from pipeline.store.sums import beside

LOSS = "core/losses.py:cross_entropy"
LOSSES = "pipeline/core/losses.py"
LINE = '    return F.cross_entropy(widen(logits), labels, reduction="none")'


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """A project with one run and one record, whose code is its own copy."""
    params = tiny.params(epochs=1)
    params["tables"]["table1"]["members"] = [1]
    copy_project(tmp_path, params)
    monkeypatch.setattr(references, "ROOT", tmp_path)
    monkeypatch.setattr(shared, "ROOT", tmp_path)
    plan = tiny.place(tmp_path, monkeypatch, params)
    forget()
    tiny.made(plan, ["standard"])
    yield plan
    forget()


def forget() -> None:
    """Let the files be looked at as another process would."""
    for known in (references.files, shared._reach, shared._read_equal):
        known.cache_clear()


def line(plan: Plan) -> str:
    forget()
    return shared.Stale(plan, [*plan.graph.runs.values(), *plan.graph.records.values()]).line()


def change(old: str, new: str, name: str = LOSSES) -> None:
    edit(Path(), old, new, name)


def test_a_changed_loss_is_named_before_any_job(plan):
    assert line(plan) == line(plan) == ""
    change(LINE, f"    # natural logarithm\n{LINE}")
    change('"""Losses per', '"""All losses per')
    Path(LOSSES).write_text(Path(LOSSES).read_text() + "\n\ndef unused(x):\n    return x\n")
    assert line(plan) == ""

    change(LINE, f"{LINE} * 0.5")
    said = line(plan)
    assert f"since 2 of 2 results were made, which keep their names: {LOSSES}." in said
    assert "core.evaluate and core.train" in said and "golden/run.py" in said

    for words in (["snakemake", "-n"], ["python", "-m", "pipeline.plan", "results/table1.csv"]):
        done = command(Path(), *words)
        assert said in done.stdout and done.returncode == 0, done.stdout


def test_what_a_result_does_not_use_concerns_it_not(plan):
    change("def js_divergence(", "def js_divergence(weight: int, ", LOSSES)
    change(
        "def subset(images: int, ",
        "def subset(images: int, x: int, ",
        "pipeline/loading/images.py",
    )
    assert "since 1 of 2" in line(plan)
    assert "pipeline/loading/images.py. " in line(plan) and "core.evaluate in" in line(plan)


def test_code_that_was_proven_equal_is_not_named(plan):
    numbers = {stage: plan.entries.core[stage] for stage in ("train", "evaluate")}
    every = {"train": [LOSS], "evaluate": [LOSS]}
    assert shared.prove(numbers, {}) == {}
    change(LINE, f"{LINE} + 0")
    assert "since 2 of 2" in line(plan)

    assert shared.prove(numbers, {"train": [LOSS]}) == {"evaluate": [LOSS]}
    assert "since 1 of 2" in line(plan) and "core.evaluate in" in line(plan)
    change(f"{LINE} + 0", f"{LINE} - 0")
    assert "since 2 of 2" in line(plan)
    # for records nothing shows any more what the bytes of the code before both were
    assert shared.prove(numbers, every) == {"evaluate": [LOSS]}
    assert "since 1 of 2" in line(plan) and "core.evaluate in" in line(plan)
    assert shared.prove({stage: number + 1 for stage, number in numbers.items()}, {}) == {}
    assert "since 2 of 2" in line(plan)


def test_what_a_golden_run_left_unproven_no_later_one_proves(plan):
    """Its bytes were replaced by those of the new code, which the second run found equal."""
    numbers = {stage: plan.entries.core[stage] for stage in ("train", "evaluate")}
    shared.prove(numbers, {})
    change(LINE, f"{LINE} + 0")
    forget()
    both = {"train": [LOSS], "evaluate": [LOSS]}
    for _ in range(2):  # the second run sees no change since the first
        assert shared.prove(numbers, {"train": ["core/losses.py:kl"]}) == both
        assert "since 2 of 2" in line(plan)
    bumped = {**numbers, "evaluate": numbers["evaluate"] + 1}
    assert shared.prove(bumped, {}) == {"train": [LOSS]}
    assert shared.prove(bumped, both) == {"train": [LOSS]}
    assert "since 2 of 2" in line(plan)
    change(f"{LINE} + 0", LINE)
    forget()
    assert shared.prove(bumped, {}) == {"evaluate": [LOSS]}  # begun with the code that went
    assert line(plan) == ""


def test_a_transfer_set_remembers_its_code_too(tmp_path, monkeypatch, capsys):
    params = tiny.params(epochs=1)
    params["victims"]["sibling"] = {"of": "standard", "members": 1, "seed": 900}
    params["suites"]["unified"] |= {"attacks": ["mpgd"], "surrogates": ["sibling"]}
    params["tables"]["table1"] |= {"members": [1], "columns": ["clean", "sibling_mpgd"]}
    plan = tiny.place(tmp_path, monkeypatch, params)
    (made,) = plan.graph.sets.values()
    (run,) = [plan.run(element.run) for element in made.surrogate.elements]
    train.train(plan, run, tiny.CPU, None)
    transfer.craft(plan, made, tiny.CPU)
    path = beside(made.path)
    assert shared._beside(made) == str(path)
    said = json.loads(path.read_text())
    assert said["shared"] == shared.code_of(plan, made)
    assert {"transfer.py:craft", "core/losses.py:margin"} <= said["shared"].keys()
    assert "evaluate.py:evaluate" not in said["shared"]

    said["shared"]["core/losses.py:margin"] = "another"
    path.write_text(json.dumps(said))
    capsys.readouterr()
    shared.warn(plan)
    assert "since 1 of 2 results were made" in (text := capsys.readouterr().err), text
    assert "add one to core.transfer in" in text


def test_what_lies_beside_an_artifact_is_no_part_of_its_bytes(plan):
    run = tiny.one_run(plan, "standard")
    (record,) = plan.table("table1").records
    for path, artifact in ((run.weights, run), (record.path, record)):
        assert shared._beside(artifact) == str(beside(path))
        said = json.loads(beside(path).read_text())["shared"]
        assert "core/losses.py:cross_entropy" in said and "core/losses.py:js_divergence" not in said
    assert "shared" not in json.loads((run.folder / "run.json").read_text())
    before = record.path.read_bytes()
    record.path.unlink()
    change(LINE, f"{LINE} * 0.5")
    forget()
    evaluate.evaluate(plan, record, tiny.CPU)
    assert record.path.read_bytes() == before  # this process's own code


def test_a_thousand_runs_are_looked_at_in_a_moment(plan):
    """Measured: 0.03 s of 1,000 runs and records; the bound is what a dry run may wait."""
    run = tiny.one_run(plan, "standard")
    listed = beside(run.weights)
    many = []
    for number in range(1000):
        folder = Path(f"results/runs/{run.id}{number}")
        folder.mkdir()
        (folder / "run.time.json").write_bytes(listed.read_bytes())
        many.append(replace(run, id=folder.name))
    assert not shared.Stale(plan, many).found
    begun = time.process_time()
    found = shared.Stale(plan, many)
    assert time.process_time() - begun < 0.1 and found.whole == 1000
