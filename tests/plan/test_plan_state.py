"""What exists, what must be made, and how the plan's command says so."""

import os
import re
import time
from pathlib import Path

import pytest
import tiny
from projects import TARGET, tiny_params

from pipeline.errors import UserError
from pipeline.plan import load_plan, workflow
from pipeline.plan.__main__ import main
from pipeline.plan.state import states
from pipeline.share import writer
from pipeline.store import receipts
from pipeline.store.manifest import MANIFEST, Line


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer.write(tmp_path, tiny_params())
    return load_plan()


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def make_run(run):
    for path in run.outputs:
        touch(path)


def make_table(plan, receipt):
    tiny.target_of(plan.table(TARGET), receipt)


def status(plan):
    """Status by stage and entry (of a run) or victim (of a record)."""
    found = states(plan, [plan.table(TARGET)])
    return {(s.stage, re.split("-x?[0-9s]", s.id)[0].split("-")[-1]): s.status for s in found}


ALL = [
    ("prepare", "digits"),
    ("train", "trades"),
    ("train", "pgd_at"),
    ("average", "wa"),
    ("evaluate", "trades"),
    ("evaluate", "wa"),
]


def test_with_nothing_there_everything_is_needed(plan):
    assert status(plan) == dict.fromkeys(ALL, "need")


def test_with_a_record_there_its_run_is_not_asked_for(plan):
    record = next(r for r in plan.graph.records.values() if r.victim.entry == "trades")
    touch(record.path)
    expected = dict.fromkeys(ALL, "need")
    assert status(plan) == expected | {
        ("train", "trades"): "not needed",
        ("evaluate", "trades"): "have",
    }


def test_with_a_run_there_only_its_record_is_needed(plan):
    for run in plan.graph.runs.values():
        make_run(run)
    expected = dict.fromkeys(ALL, "have")
    evaluations = {("evaluate", "trades"): "need", ("evaluate", "wa"): "need"}
    assert status(plan) == expected | evaluations | {("prepare", "digits"): "need"}


def test_a_run_without_its_description_is_made_again(plan):
    run = next(r for r in plan.graph.runs.values() if r.entry == "trades")
    make_run(run)
    assert status(plan)["train", "trades"] == "have"
    (run.folder / "run.json").unlink()
    assert status(plan)["train", "trades"] == "need"


def test_a_trajectory_whose_snapshots_are_lost_is_counted_once_more(plan):
    run = next(r for r in plan.graph.runs.values() if r.entry == "pgd_at")
    make_run(run)
    found = status(plan)
    assert found["train", "pgd_at"] == "have" and found["trajectory", "pgd_at"] == "need"
    touch(run.snapshots / "from1.json")
    assert ("trajectory", "pgd_at") not in status(plan)


def test_a_table_of_today_needs_nothing_and_a_stale_one_does(plan):
    make_table(plan, plan.table(TARGET).digest)
    assert set(status(plan).values()) == {"not needed"}
    make_table(plan, "0123456789")
    assert set(status(plan).values()) == {"need"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"receipt": 3}', '{"receipt": {"scale": "demo"}}', "[" * 99999]
)
def test_a_broken_receipt_is_no_receipt(plan, text):
    make_table(plan, None)
    plan.table(TARGET).path.with_suffix(".json").write_text(text)
    assert set(status(plan).values()) == {"need"}


# ---- what is printed


def test_the_summary_counts_what_is_missing(plan):
    found = workflow.summary(plan)
    assert re.fullmatch(
        r"scale demo: digits for cifar10 \(eps x 6.375\); to make: 1 data set, 2 trainings, "
        r"1 average, 2 evaluations; estimate \d+ seconds at \d+ GFLOP/s",
        found,
    )


def test_the_summary_of_given_files_counts_those(plan):
    run = next(r for r in plan.graph.runs.values() if r.entry == "trades")
    found = workflow.summary(plan, [str(run.folder / "weights.safetensors")])
    assert "; to make: 1 training; estimate" in found
    assert workflow.summary(plan, []).endswith("; to make: nothing")


def test_without_a_target_the_command_lists_the_tables(plan, capsys):
    main([])
    head, _, columns, row = capsys.readouterr().out.splitlines()
    assert head == "scale demo: digits for cifar10 (eps x 6.375)"
    assert re.split("  +", columns)[:5] == ["target", "rows", "runs", "records", "state"]
    assert re.split("  +", row)[:5] == [TARGET, "2", "3", "2", "to be made"]
    make_table(plan, plan.table(TARGET).digest)
    main([])
    assert "up to date  0 seconds" in capsys.readouterr().out


def test_with_a_target_it_lists_runs_and_records_in_columns(plan, capsys):
    make_run(next(r for r in plan.graph.runs.values() if r.entry == "trades"))
    main([TARGET])
    first, second, blank, *rows = capsys.readouterr().out.splitlines()
    assert first == f"{TARGET} is to be made" and blank == ""
    assert second == workflow.summary(plan)
    assert [row.split()[:2] for row in rows] == [
        ["need", "prepare"],
        ["have", "train"],
        ["need", "train"],
        ["need", "average"],
        ["need", "evaluate"],
        ["need", "evaluate"],
    ]
    assert len({row.index("digits") for row in rows}) == 1
    assert ["estimate" in row for row in rows] == [False, False, True, True, True, True]


def test_an_unknown_target_is_one_line(plan):
    with pytest.raises(UserError, match="no table or figure 'tabel1' \\(nearest: table1\\)"):
        main(["results/tabel1.csv"])


# ---- what the rules ask


def test_a_users_error_inside_a_rule_ends_in_one_line(plan):
    wildcards = {"run": "tabel1", "victim": "v", "suite": "s", "folder": "", "table": "tabel1"}
    for rule in ("train", "average", "trajectory", "evaluate", "tabulate"):
        with pytest.raises(SystemExit) as caught:
            workflow.inputs(plan, rule, {**wildcards, "epoch": "1"})
        assert str(caught.value).startswith("error: params.yaml (scale demo): no ")


def test_the_patterns_tell_averages_from_trainings(plan):
    for run in plan.graph.runs.values():
        is_average = re.fullmatch(workflow.average_pattern(plan), run.id) is not None
        is_training = re.fullmatch(workflow.train_pattern(plan), run.id) is not None
        assert (is_average, is_training) == (run.stage == "average", run.stage == "train")


def test_a_stale_table_has_a_newer_input_of_a_name_never_seen(plan):
    asked = []
    table = plan.table(TARGET)
    first = workflow.target_input(plan, "table1", asked.append)
    # a job's own Snakemake needs no reason, whatever an attempt before it removed
    assert workflow.target_input(plan, "table1", str, is_main=False) == "params.yaml"
    assert first.endswith(table.digest) and not table.path.exists() and not asked
    make_table(plan, "0123456789")
    later = time.time() + 1000  # of a machine whose clock goes before
    os.utime(table.path, (later, later))
    mark = Path(workflow.target_input(plan, "table1", asked.append))
    workflow.mark_targets(plan)
    assert str(mark) != first and mark.stat().st_mtime > later and not asked
    make_table(plan, table.digest)
    workflow.target_input(plan, "table1", asked.append)
    assert asked == ["params.yaml"]


def test_a_target_is_todays_only_while_its_files_are_what_its_receipt_says(plan):
    table = plan.table(TARGET)
    make_table(plan, table.digest)
    assert table.is_here() and len(table.outputs) == 6 + len(table.metrics) > 6
    for file in table.outputs:
        content = file.read_bytes()
        for damaged in (b"", content[:-1], content + b" ", content.replace(b"a", b"A"), None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert not table.is_here(), (file, damaged)
            file.write_bytes(content)
        assert table.is_here()


def test_a_table_of_other_records_than_those_that_count_now_is_not_todays(plan):
    table = plan.table(TARGET)
    record = next(iter(plan.graph.records.values())).path
    path = table.path.with_suffix(".json")
    files = {file: b"x" for file in table.outputs if file != path}
    receipt = {"plan": table.digest, "scale": "demo", "rests_on": {str(record): "a" * 64}}
    receipts.write_target(path, {"receipt": receipt}, files)
    assert table.is_here()
    for sha256 in ("a" * 64, "b" * 64):
        about = {"artifact": str(record), "sha256": {record.name: sha256}, "rests_on": {}}
        more = {"bytes": 1, "plan": "", "host": "", "versions": {}, "seconds": 1}
        line = Line(**about, **more, date="2026-01-01T00:00:00+00:00")
        MANIFEST.write_text(line.text() + "\n")
        assert table.is_here() == (sha256 == "a" * 64)


@pytest.mark.parametrize(
    "words",
    ["results/table1.csv --budget 1h", "results/table1.csv --unused", "table1 --equal methods/x",
     "table1 --cluster --pull", "--unused --budget 1h", "table1 --row trades --cluster"],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and ("leave out" in said or "not allowed with" in said)
