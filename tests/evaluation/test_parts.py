"""A suite that gains an attack runs that one alone, to the bytes of a run that knows no other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_failing_attacks import asked, record_of

from pipeline import evaluate
from pipeline.evaluation.parts import Parts
from pipeline.evaluation.verdicts import Evaluation
from pipeline.plan import Plan, Record
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors
from pipeline.store.records import read_arrays

BEFORE, AFTER = ("fgsm", "mim50"), ("fgsm", "noise", "mim50")


def made(plan: Plan) -> Record:
    record = record_of(plan)
    evaluate.evaluate(plan, record, tiny.CPU)
    return record


def times(record: Record) -> dict:
    return json.loads(record.path.with_suffix(".time.json").read_bytes())


def made_fresh(record: Record, plan: Plan) -> bytes:
    """The record's bytes where no other record and no part is there."""
    shutil.rmtree(record.path.parent)
    shutil.rmtree("work/records", ignore_errors=True)
    return made(plan).path.read_bytes()


@pytest.mark.parametrize("leave", [False, True])
def test_an_attack_put_in_the_middle_costs_only_what_depends_on_it(
    tmp_path, monkeypatch, crafted, leave
):
    plan = tiny.place(tmp_path, monkeypatch, asked(*BEFORE, stop_when_fooled=leave))
    earlier = made(plan)
    assert crafted == [*BEFORE]

    crafted.clear()
    grown = Plan(asked(*AFTER, stop_when_fooled=leave))
    record = made(grown)
    assert crafted == (["noise", "mim50"] if leave else ["noise"])
    assert times(record)["attacks"]["fgsm"] == times(earlier)["attacks"]["fgsm"]
    assert set(times(record)["attacks"]) == set(AFTER)

    whole = record.path.read_bytes()
    assert not Path("work/records", record.id).exists()
    assert made_fresh(record, grown) == whole
    assert crafted[-3:] == [*AFTER]


def test_slopes_are_compared_where_no_attack_has_a_ball_too(tmp_path, monkeypatch):
    """C22 needs a radius: the attacks' own, or that of the papers."""
    ratios = []
    for attack in ("fgsm", "blur"):
        plan = tiny.place(tmp_path / attack, monkeypatch, asked(attack))
        ratios.append(read_arrays(made(plan).path)["clean/slope_ratio"])
    assert np.isfinite(ratios[0]).any() and np.array_equal(*ratios, equal_nan=True)


def test_a_suite_that_loses_or_reorders_attacks_runs_none(tmp_path, monkeypatch, crafted):
    plan = tiny.place(tmp_path, monkeypatch, asked(*AFTER))
    made(plan)
    crafted.clear()
    made(Plan(asked("mim50", "fgsm")))
    assert crafted == []


def test_kills_between_give_the_same_bytes(tmp_path, monkeypatch, stopped_at):
    plan = tiny.place(tmp_path, monkeypatch, asked(*BEFORE))
    made(plan)
    grown = Plan(asked("noise", *BEFORE, "bim"))
    record = record_of(grown)
    for name in ("noise", "bim"):
        with stopped_at(name):
            evaluate.evaluate(grown, record, tiny.CPU)
    evaluate.evaluate(grown, record, tiny.CPU)
    whole = record.path.read_bytes()
    assert whole == made_fresh(record, grown)


def test_a_record_whose_attacks_changed_the_victim_gives_no_parts(tmp_path, monkeypatch, crafted):
    plan = tiny.place(tmp_path, monkeypatch, asked(*BEFORE))
    whole = Evaluation.attack

    def drawing(self, name, spec, seed=0):
        torch.rand(1)
        return whole(self, name, spec, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "attack", drawing)
        made(plan)
    made(Plan(asked(*AFTER)))
    assert crafted == [*BEFORE, *AFTER]


def test_a_damaged_or_foreign_record_gives_no_parts(tmp_path, monkeypatch, crafted, capsys):
    plan = tiny.place(tmp_path, monkeypatch, asked(*BEFORE))
    earlier, grown = made(plan), Plan(asked(*AFTER))
    content = bytearray(earlier.path.read_bytes())
    content[200] ^= 1  # of what it says of clean images
    whole, beside = earlier.path.read_bytes(), earlier.path.with_suffix(".time.json")
    said = beside.read_bytes()
    for damaged, about in (
        (bytes(content), said),
        (whole[: len(whole) // 2], said),
        (whole, json.dumps({**json.loads(said), "torch": "0.1"}).encode()),
        (whole, b""),
    ):
        earlier.path.write_bytes(damaged)
        beside.write_bytes(about)
        crafted.clear()
        record = made(grown)
        assert crafted == [*AFTER]
        record.path.unlink()
    assert "is not what its job wrote" in capsys.readouterr().out


def test_parts_of_other_weights_are_not_taken(tmp_path, monkeypatch, crafted):
    plan = tiny.place(tmp_path, monkeypatch, asked(*BEFORE))
    made(plan)
    (run,) = tiny.runs(plan, "standard")
    weights, _ = load_safetensors(run.weights, "")
    weights["0.head.bias"] += 0.01
    checkpoint.save(run.weights, weights)
    (run.folder / "run.time.json").unlink()
    crafted.clear()
    made(Plan(asked(*AFTER)))
    assert crafted == [*AFTER]


@pytest.mark.parametrize(
    "changed, value",
    [
        ("pipeline.evaluate.shared.code_of", {"evaluate.py": "of another version"}),
        ("pipeline.evaluate.device.describe", {"device": "cpu", "cpu": "another", "torch": "2"}),
    ],
)
def test_parts_left_by_a_kill_are_taken_by_the_same_code_on_the_same_machine_alone(
    tmp_path, monkeypatch, crafted, stopped_at, changed, value
):
    plan = tiny.place(tmp_path, monkeypatch, asked(*AFTER))
    with stopped_at("mim50"):
        evaluate.evaluate(plan, record_of(plan), tiny.CPU)
    assert crafted == ["fgsm", "noise"]
    with monkeypatch.context() as patch, stopped_at("mim50"):
        patch.setattr(changed, lambda *_: value)
        evaluate.evaluate(plan, record_of(plan), tiny.CPU)
    assert crafted == ["fgsm", "noise"] * 2  # by other code, or elsewhere
    made(plan)
    assert crafted == ["fgsm", "noise"] * 2 + ["mim50"]  # as at first


def test_verdicts_on_a_victim_that_an_earlier_attack_changed_are_not_kept(
    tmp_path, monkeypatch, crafted, stopped_at
):
    plan = tiny.place(tmp_path, monkeypatch, asked(*AFTER))
    whole = Evaluation.attack

    def drawing(self, name, spec, seed=0):
        if name == "fgsm":
            torch.rand(1)
        return whole(self, name, spec, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "attack", drawing)
        with stopped_at("mim50"):
            evaluate.evaluate(plan, record_of(plan), tiny.CPU)
    assert crafted == ["fgsm", "noise"] and not list(Path("work/records").rglob("*.npz"))
    made(plan)
    assert crafted == ["fgsm", "noise", *AFTER]


def test_a_resumed_record_counts_the_time_of_what_was_made_before_the_kill(
    tmp_path, monkeypatch, stopped_at
):
    plan = tiny.place(tmp_path, monkeypatch, asked(*BEFORE))
    write = Parts.write
    monkeypatch.setattr(Parts, "write", lambda self, name, found, _: write(self, name, found, 777))
    with stopped_at("mim50"):
        evaluate.evaluate(plan, record_of(plan), tiny.CPU)
    found = times(made(plan))
    assert found["attacks"] == {"fgsm": 777, "mim50": 777}
    assert 777 < found["seconds"] < 2 * 777  # the second one is this job's own time
