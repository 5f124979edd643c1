"""Published numbers, beside ours only where everything matches."""

from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from projects import published

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.graph import column_names as columns
from pipeline.tables.find import Tables
from pipeline.tables.markdown import markdown
from pipeline.tables.reported import COLUMNS, Reported, rows_of
from pipeline.tables.rows import Tabulation

MATCH = {"entry": "trades_joint", "dataset": "cifar10", "arch": "resnet20", "members": "3",
         "eps": "8/255", "attack": "pgd10", "checkpoint": "last"}  # fmt: skip


def reported(plan: Plan, *rows: dict[str, str], column: str = "pgd10") -> float | None:
    """The published number of the table's first cell, with this data/reported/aute.csv."""
    usual = {"table": "1", "row": "TRADES", "column": "PGD-10", "value": "49.7", **MATCH}
    Path("data/reported").mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([{**usual, **row} for row in rows], columns=list(COLUMNS))
    frame.to_csv("data/reported/aute.csv", index=False)
    tabulation = Tabulation(plan, plan.table("table1"), partial=True)
    return tabulation.published(plan.table("table1").cells[0], column)


def paper(scale: str = "paper", **changed: Any) -> Plan:
    usual = {"members": [3], "seeds": [0], "reported": "aute"}
    asked = tiny.table_of(["trades_joint"], **usual | changed)
    return Plan({**asked, "scale": scale})


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_published_number_stands_beside_its_exact_match(there):
    assert reported(paper(), {}) == pytest.approx(0.497)
    assert reported(paper(), {"eps": "0.03137254901960784"}) == pytest.approx(0.497)
    clean = {"attack": "clean", "eps": "0", "value": "76.6"}
    assert reported(paper(), clean, {}, column="clean") == pytest.approx(0.766)


def test_a_number_stands_only_beside_the_recipe_of_the_table_that_rebuilds_it(there):
    """AUTE's own recipe trains otherwise than the unified one: no bracket beside that."""
    for recipe, value in (("aute", None), ("unified", pytest.approx(0.497))):
        plan = paper()
        tables = plan.entries.section("tables")
        own = {"recipe": recipe, "reported": "aute", "printed": 1}
        tables["own"] = {**tables["table1"], **own}
        assert reported(plan, {}) == value


def test_a_bracket_says_what_the_paper_calls_the_attack(monkeypatch):
    monkeypatch.chdir(tiny.ROOT)
    plan = Plan(published() | {"scale": "paper"})
    assert Reported(plan, "aute", {}, 1).names(["apgd_ce", "pgd9"]) == ["apgd_ce as AA"]
    (name,) = Reported(plan, "red", {}, 1).names(["red_pgd"])
    assert name == "red_pgd as PGD (the attack as released; as printed: printed_pgd)"
    meat = Reported(plan, "meat", {}, 1).names(["meat_pgd20", "autoattack"])
    assert meat == ["meat_pgd20 as PGD-20", "autoattack as AutoAttack"]
    # SoE's columns name a radius and no attack
    assert Reported(plan, "soe", {}, 1).names(["pgd50_5", "soe_strongest", "transfer30"]) == []


@pytest.mark.parametrize("changed", [
    {"entry": "trades"},
    {"dataset": "cifar100"},
    {"arch": "resnet18"},
    {"members": "5"},
    {"members": ""},
    {"eps": "0.031"},
    {"attack": "pgd20"},
    {"checkpoint": "best"},
])  # fmt: skip
def test_a_number_that_differs_in_anything_stays_blank(there, changed):
    assert reported(paper(), changed) is None


def test_two_numbers_for_one_cell_and_a_worst_case_stay_blank(there):
    assert reported(paper(), {}, {"value": "50"}) is None
    assert reported(paper(), {"attack": "core_worst"}, column="core_worst") is None


def test_a_scale_that_stands_in_or_cuts_leaves_every_number_blank(there):
    assert reported(paper("demo"), {}) is None
    assert reported(paper("short"), {}) is None  # fewer epochs
    asked = tiny.table_of(["trades_joint"], members=[3], seeds=[0], reported="aute")
    for name, part in (("attacks", {"pgd10": {"steps": 5}}), ("archs", {"resnet20": "tiny"})):
        asked["scales"]["cut"] = {name: part}
        assert reported(Plan({**asked, "scale": "cut"}), {}) is None
    asked["scales"]["cut"] = {"images": 1000}
    assert reported(Plan({**asked, "scale": "cut"}), {}) == pytest.approx(0.497)
    assert reported(paper(beta=[6]), {}) is None  # an axis: which point is the paper's?


def test_a_cut_behind_a_mean_or_a_whole_suite_leaves_it_blank(there):
    means = {"avg": ["pgd10"]}
    asked = tiny.table_of(["trades_joint"], members=[3], reported="aute", means=means)
    asked["tables"]["table1"]["columns"] = ["clean", "avg", "unified"]
    for cut, shown in (({}, pytest.approx(0.497)), ({"pgd10": {"steps": 5}}, None)):
        asked["scales"]["own"] = {"attacks": cut}
        plan = Plan({**asked, "scale": "own"})
        for column in ("avg", "unified"):
            assert reported(plan, {"attack": column}, column=column) == shown


def test_a_number_is_blank_where_another_arch_stands_in_for_the_teachers(there):
    asked = tiny.table_of(["at_aka"], members=[1], reported="aute", archs=["resnet20"])
    match = {"entry": "at_aka", "members": "1"}
    asked["scales"]["own"] = {}
    assert reported(Plan({**asked, "scale": "own"}), match) == pytest.approx(0.497)
    asked["scales"]["own"] = {"archs": {"wrn34_10": "resnet18"}}
    plan = Plan({**asked, "scale": "own"})
    assert reported(plan, match) is None

    tables = Tables(plan, Path("gains.csv"))
    assert tables.departures("table1", "at_aka") == ["resnet18 for wrn34_10"]
    tabulation = tables.tabulation("table1")
    assert "resnet18 standing in for wrn34_10" in markdown(tabulation, tabulation.details())


@pytest.mark.parametrize("row", [{"eps": "eight"}, {"value": "49,7"}])
def test_a_number_that_is_none_is_refused(there, row):
    with pytest.raises(UserError, match="data/reported/aute.csv: .* is not a number"):
        reported(paper(), row)


def test_other_columns_or_no_file_are_refused(there):
    with pytest.raises(UserError, match="data/reported/aute.csv: cannot be read"):
        Reported(paper(), "aute", {})
    Path("data/reported").mkdir(parents=True)
    Path("data/reported/aute.csv").write_text("row,value\na,1\n")
    with pytest.raises(UserError, match="columns must be table, row, column"):
        Reported(paper(), "aute", {})
    assert Reported(paper(), "none", {}).value(paper().table("table1").cells[0], "pgd10") is None


@pytest.fixture(scope="module")
def shown() -> dict[str, set[tuple[str, ...]]]:
    """What the tables print of each paper at paper scale."""
    plan, found = Plan(published() | {"scale": "paper"}), defaultdict(set)
    for name in plan.tables:
        table = plan.table(name)
        entry = table.spec["entry"]
        numbers = Reported(plan, entry["reported"], columns.made(entry), entry["printed"])
        for cell, column in product(table.cells, table.columns):
            value = numbers.value(cell, column)
            if value is not None:
                key = (cell.row, cell.setting.dataset, cell.setting.arch, column)
                found[entry["reported"]].add((*key, f"{100 * value:.4f}"))
    return found


@pytest.mark.parametrize("paper", ["aute", "soe", "at_aka", "red", "meat"])
def test_every_printed_number_of_a_row_that_we_have_stands_in_a_table(shown, paper):
    params = published()
    later = {*params["planned"], *(k for k, v in params["methods"].items() if "weights" in v)}
    lost = []
    for _, row in rows_of(paper).iterrows():
        asked = row["entry"] and row["attack"] and row["entry"] not in later
        key = (row["entry"], row["dataset"], row["arch"], row["attack"])
        if asked and (*key, f"{float(row['value']):.4f}") not in shown[paper]:
            lost.append((row["table"], row["row"], row["column"]))
    assert [x for x in lost if "MNIST" not in x[2]] == []  # whose radius is not stated
    assert len(shown[paper]) > 20
