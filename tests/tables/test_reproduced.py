"""Published numbers judged by ours: planted, and at the project's own scales."""

import argparse
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from projects import published

from pipeline.plan import Plan
from pipeline.plan import __main__ as command
from pipeline.plan.estimate import seconds
from pipeline.plan.graph.targets import label as label_of
from pipeline.plan.graph.targets import walk
from pipeline.tables import reproduced
from pipeline.tables.reported import list_papers
from pipeline.tables.reproduced import NOT_RUN, STOOD_IN, UNKNOWN, Reproduced, totals
from pipeline.tables.rows import Tabulation


def lines_of(scale: str) -> list[dict[str, str]]:
    return list(Reproduced(Plan(published() | {"scale": scale})).lines())


def test_every_number_has_a_verdict_and_none_at_demo_scale(unmade):
    lines = lines_of("demo")
    assert len(lines) == sum(
        len((tiny.ROOT / f"data/reported/{p}.csv").read_text().splitlines()) - 1
        for p in list_papers()
    )
    assert {line["verdict"] for line in lines} == {STOOD_IN, UNKNOWN}
    assert totals(lines)[0].startswith(f"all: {len(lines)} numbers: ")


def test_at_paper_scale_most_numbers_wait_for_hours(unmade):
    lines = lines_of("paper")
    waiting = [line for line in lines if line["verdict"] == NOT_RUN]
    assert len(waiting) > 1000 and all(float(line["hours"]) > 0 for line in waiting)


def test_the_hours_of_a_budget_are_those_of_all_rows_that_it_lists(unmade):
    """One printed label stands for several trainings of ours: each of them costs."""
    plan = Plan(published() | {"scale": "paper"})
    chosen = Reproduced(plan).choose(24.0)
    assert chosen and sum(hours for _, _, hours in chosen) <= 24
    assert chosen == Reproduced(plan).choose(24.0)

    cells = []
    for name, _, _ in chosen:
        path, _, label = name.partition(": ")[2].partition(", ")
        table = plan.table(path)
        cells += [cell for cell in table.cells if label_of(cell, table.cells) == label]
    needed = walk(plan.graph, [record for cell in cells for record in cell.records.values()])
    whole = sum(seconds(plan, [artifact]) or 0 for artifact in needed) / 3600
    assert whole == pytest.approx(sum(hours for _, _, hours in chosen))


def test_a_number_that_no_scale_has_is_of_unknown_settings_at_every_scale(unmade):
    unknown = [
        [(line["paper"], line["table"], line["row"], line["column"])
         for line in lines_of(scale) if line["verdict"] == UNKNOWN]
        for scale in ("paper", "smoke")
    ]  # fmt: skip
    assert unknown[0] and unknown[0] == unknown[1]


def test_plan_lists_the_rows_that_a_day_decides_at_the_papers_scale(unmade, capsys):
    command.main(["--budget", "1d"])
    first, *rows = capsys.readouterr().out.splitlines()
    numbers = sum(int(re.search(r": (\d+) numbers, ", row)[1]) for row in rows)
    assert rows and first.startswith(f"scale paper: {numbers} printed numbers in ")


@pytest.mark.parametrize("text, hours", [("90m", 1.5), ("24h", 24), ("24", 24), ("0.5d", 12)])
def test_a_budget_is_minutes_hours_or_days(text, hours):
    assert command.read_hours(text) == hours
    with pytest.raises(argparse.ArgumentTypeError, match="is no time; write 90m, 24h or 2d"):
        command.read_hours(f"{text} or so")


PRINTED = {"table": "1", "row": "AT", "column": "PGD", "entry": "pgd_at_single",
           "dataset": "cifar10", "arch": "resnet20", "members": "1", "eps": "8/255",
           "attack": "pgd10", "checkpoint": "last"}  # fmt: skip


@pytest.mark.parametrize("seeds, shift, verdict", [
    (3, 0.0, "reproduced"),
    (3, 60.0, "differs by -60.0"),
    (2, 0.0, "cannot tell from 2 seeds"),
    (1, 0.0, "cannot tell from 1 seeds"),
])  # fmt: skip
def test_a_planted_row_is_reproduced_or_differs(tmp_path, monkeypatch, seeds, shift, verdict):
    """Records of the tiny plan, taken for the paper's settings."""
    asked = tiny.table_of(["pgd_at_single"], reported="aute", printed=1)
    plan = tiny.place(tmp_path, monkeypatch, asked)
    tiny.made(plan, ["pgd_at_single"])
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/reported").symlink_to(tiny.ROOT / "data/reported")
    found = Reproduced(plan)
    (place,) = found._places["aute", "1"]
    place.row.verdicts["pgd10"] = [(np.arange(30) < 9).astype(np.float32)] * seeds
    printed = {**PRINTED, "value": f"{30 + shift}"}
    line = found._judge_line("aute", printed)
    assert line["verdict"] == STOOD_IN and line["data"] == line["arch"] == "no"
    monkeypatch.setattr(
        Reproduced, "_compare_settings", lambda *_: dict.fromkeys(reproduced.MATCHES, "yes")
    )
    line = found._judge_line("aute", printed)
    assert line["verdict"] == verdict and line["ours"] == "30.00"
    assert found._judge_line("aute", {**printed, "members": "3"})["verdict"] == UNKNOWN


@pytest.mark.parametrize("changed", [{"beta": [0.5, 2]}, {"recipe": "unified"}], ids=str)
def test_a_table_based_on_a_papers_does_not_take_its_numbers_over(monkeypatch, changed):
    monkeypatch.chdir(tiny.ROOT)
    found = published() | {"scale": "paper"}
    tables = {"mine": {"base": "aute_table1", "rows": ["aute_released"], "title": "t", **changed}}
    whole = Plan(found | {"tables": tables | found["tables"]})
    printed = next(
        p
        for paper, p in reproduced._list_printed()
        if paper == "aute" and p["entry"] == "aute_released"
    )
    place = Reproduced(whole).find("aute", printed)
    assert place and place.tabulation.table.name == "aute_table1"
    rows = Tabulation(whole, whole.table("aute_table1"), partial=True)
    cell = next(c for c in rows.table.cells if c.row == "trades_joint")
    assert rows.reported.recipes["1"] == {"aute"}
    mine = replace(cell, setting=replace(cell.setting, recipe="unified"))
    assert rows.reported.value(cell, "pgd100") and rows.reported.value(mine, "pgd100") is None


def test_a_planned_row_costs_nobody_anything(monkeypatch):
    """It stood at 0.0 hours and was the first that a budget advised."""
    monkeypatch.chdir(tiny.ROOT)
    found = published() | {"scale": "paper", "planned": ["to_come"]}
    found["tables"]["aute_table1"]["rows"] = ["to_come"]
    printed = {"table": "1", "row": "Later", "column": "PGD-10", "entry": "to_come",
               "dataset": "cifar10", "arch": "resnet20", "members": "3", "eps": "8/255",
               "attack": "pgd10", "checkpoint": "last", "value": "50"}  # fmt: skip
    monkeypatch.setattr(reproduced, "_list_printed", lambda: iter([("aute", printed)]))
    found = Reproduced(Plan(found))
    assert found._judge_line("aute", printed)["verdict"] == "not run (planned)"
    assert found._judge_line("aute", printed)["hours"] == "" and found.choose(24.0) == []
