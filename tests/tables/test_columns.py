"""Columns by name: what they are of, distances of fooled images, AutoAttack that a scale cuts."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from projects import published

from pipeline.core import intervals, metrics
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.graph import column_names as columns
from pipeline.plan.graph.column_names import radius, split
from pipeline.store.records import pack, read_arrays
from pipeline.tables import claims, dots
from pipeline.tables.columns import Columns
from pipeline.tables.markdown import name_columns
from pipeline.tables.rows import Tabulation
from pipeline.tools import compare

NAMES = ["cw_l2", "pgd_l2", "fog", "fog_none", "core_worst"]


@pytest.mark.parametrize("column, found", [
    ("cw_l2", ("cw_l2", "")),
    ("cw_l2_l2", ("cw_l2", "l2")),
    ("cw_l2_l2_0p5", ("cw_l2", "l2_0p5")),
    ("pgd_l2_l2_128_255", ("pgd_l2", "l2_128_255")),
    ("fog_none", ("fog_none", "")),  # an attack, not `none` of its members
    ("fog_none_none", ("fog_none", "none")),
    ("core_worst_k10", ("core_worst", "k10")),
    ("fog_pixels", ("fog", "pixels")),
    ("fog_l2_1e3", ("fog_l2_1e3", "")),
    ("fog_l2_1_0", ("fog_l2_1_0", "")),
])  # fmt: skip
def test_a_column_is_of_something_known_and_says_something_of_it(column, found):
    assert split(column, NAMES) == found


def test_distances_are_spelled_as_radii_are():
    found = [radius(f"l2_{text}") for text in ("0p5", "1", "2", "128_255")]
    assert found == [0.5, 1, 2, pytest.approx(128 / 255)]


def test_a_size_is_a_median_distance_or_a_mean_of_pixels():
    assert metrics.size("l2", np.array([1, 2, 9])) == 2
    assert metrics.size("pixels", np.array([1, 2, 9])) == 4
    assert metrics.size("l2", np.array([])) is None


# ---- distances

COLUMNS = ["clean", "pgd10", "pgd10_l2", "pgd10_pixels", "pgd10_l2_0p5", "pgd10_l2_2"]
COLUMNS += ["avg", "least"]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """One row, of 30 images: 0 to 19 right when clean, 10 to 19 of them fooled."""
    parts = ["clean", "pgd10_l2_0p5"]
    means = {"avg": parts, "least": {"strongest": [*parts, "pgd10_l2_2"]}}
    asked = tiny.table_of(["standard"], columns=COLUMNS, suites=["unified"], means=means)
    asked["tables"]["table1"]["reference"] = "none"
    plan = tiny.place(tmp_path, monkeypatch, asked)
    tiny.made(plan, ["standard"])
    rewrite(plan, fooled=10)
    return plan


def rewrite(plan, fooled, **said) -> None:
    (record,) = plan.needs(plan.table("table1"))[0]
    arrays, image = read_arrays(record.path), np.arange(30)
    hit = (image >= 10) & (image < 10 + fooled)
    arrays["clean/right"] = (image < 20).astype(np.float32)
    arrays["pgd10/right"] = arrays["clean/right"] * ~hit
    arrays["pgd10/l2"] = np.where(hit, (image - 9) / 10, 9).astype(np.float32)  # 0.1, 0.2, ... 1
    arrays["pgd10/pixels"] = np.where(hit, image - 9, 60).astype(np.int32)  # 1, 2, ... 10
    meta = {**json.loads(str(arrays["meta"])), **said}
    tiny.replace(record.path, pack({**arrays, "meta": np.array(json.dumps(meta))}))


def test_the_strongest_of_columns_is_one_of_them_and_no_worst_case(plan):
    row = tiny.tabulated(plan)[0].loc["standard"]
    assert row["least"] == min(row["clean"], row["pgd10_l2_0p5"], row["pgd10_l2_2"])
    assert row["avg"] == pytest.approx((row["clean"] + row["pgd10_l2_0p5"]) / 2)


def test_the_strongest_of_attacks_that_a_victim_is_not_for_is_refused(plan):
    columns = Tabulation(plan, plan.table("table1"), partial=False).columns
    columns.made["least"] = ["chosen_gate"]
    with pytest.raises(UserError, match="least: no attack of it is one for standard"):
        columns.verdict(plan.table("table1").cells[0], "least")


def test_another_way_to_make_a_column_is_refused():
    asked = tiny.table_of(["standard"], columns=["clean"], suites=["unified"])
    asked["tables"]["table1"]["means"] = {"least": {"weakest": ["clean"]}}
    with pytest.raises(UserError, match="params.yaml: tables.table1.means.least"):
        Plan(asked).table("table1")


def test_distances_are_of_the_images_that_an_attack_fooled(plan):
    frame, details, text = tiny.tabulated(plan)
    row, found = frame.loc["standard"], details["rows"]["standard"]
    assert (row["pgd10_l2"], row["pgd10_pixels"]) == (0.55, 5.5)
    assert (found["pgd10_l2"], found["pgd10_pixels"]) == (0.55, 5.5)
    assert "| 0.55 | 5.5 | 50.0 [" in text  # no percent
    assert "pgd10_l2 median l2 (pixels in [0, 1]); pgd10_pixels mean number of pixels" in text


def test_only_perturbations_within_a_distance_count_against_it(plan):
    frame, details, _ = tiny.tabulated(plan)
    row = frame.loc["standard"]
    assert row["pgd10"] == row["pgd10_l2_2"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["pgd10_l2_0p5"] == 0.5  # 0.1 to 0.5 count, 0.6 to 1 do not
    assert row["avg"] == pytest.approx((2 / 3 + 0.5) / 2, abs=1e-6)
    interval = [details["rows"]["standard"]["pgd10_l2_0p5"][key] for key in ("low", "high")]
    assert interval == pytest.approx(intervals.wilson(0.5, 30))
    assert set(json.loads(Path("results/metrics/table1/standard.json").read_text())) == {
        *{"clean", "pgd10", "pgd10_l2_0p5", "pgd10_l2_2", "avg", "least"}
    }


@pytest.mark.parametrize("fooled, random", [(0, False), (10, True)])
def test_who_is_never_fooled_or_random_has_no_distance(plan, fooled, random):
    rewrite(plan, fooled, random=random)
    frame, details, text = tiny.tabulated(plan)
    assert frame.loc["standard", ["pgd10_l2", "pgd10_pixels"]].tolist() == ["", ""]
    assert details["rows"]["standard"]["pgd10_l2"] is None
    assert " | - | - | " in text


def test_seeds_have_their_mean_distance(plan, monkeypatch):
    tabulation = Tabulation(plan, plan.table("table1"), False)
    (row,) = tabulation.rows
    several = type(row)(**{**vars(row), "cells": row.cells * 3})
    found = iter([0.5, None, 1.0])  # one seed was never fooled
    monkeypatch.setattr(tabulation.columns, "distance", lambda cell, column: next(found))
    assert tabulation._average_distance(several, "pgd10_l2") == 0.75


# ---- what the scale cuts

CUT = {"autoattack": {"steps": 1, "targets": 1, "queries": 1}, "red_autoattack": {"n_queries": 9}}
CUT |= {"autoattack_rand": {"eps": "4/255"}, "pgd10": {"steps": 3}}
ATTACKS = ["pgd10", "autoattack", "autoattack_rand", "full_autoattack", "red_autoattack"]
SHOWN = {
    "clean": "clean",
    "pgd10": "pgd10",
    "autoattack": "autoattack_lite",
    "autoattack_vote": "autoattack_lite_vote",
    "autoattack_rand": "autoattack_rand_lite",  # as what it is based on
    "full_autoattack": "full_autoattack",
    "red_autoattack_l2": "red_autoattack_lite_l2",
    "red_autoattack_l2_1": "red_autoattack_lite_l2_1",
}


def cut(attacks, named):
    asked = tiny.table_of(["standard"], columns=named, suites=["unified"], reference="none")
    asked["suites"] = {"unified": {"attacks": attacks}}
    asked["scales"]["demo"]["attacks"] |= CUT
    return asked


def test_an_autoattack_that_the_scale_cuts_is_lite(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, cut(ATTACKS, list(SHOWN)))
    frame, _, text = tiny.tabulated(plan, partial=True)
    assert [c for c in frame.columns if c in SHOWN.values()] == list(SHOWN.values())
    headers = [f"{name} (cut)" if name == "pgd10" else name for name in SHOWN.values()]
    assert "| " + " | ".join(headers) + " |" in text
    assert frame.loc["standard", "scale"] == "demo"
    assert set(frame.loc["standard", "cut"].split()) == set(CUT)
    assert "_lite: AutoAttack cut by the scale, so not AutoAttack." in text
    asked = cut(ATTACKS, list(SHOWN)) | {"scale": "paper"}
    whole = tiny.Plan(asked)
    table = whole.table("table1")
    assert list(columns.shown(whole.entries, table.spec["entry"], table.suites).values()) == [
        *SHOWN
    ]
    assert columns.cuts(whole.entries, table.suites) == {}


def test_sweeps_and_transfer_sets_name_the_attack_that_is_cut(tmp_path, monkeypatch):
    asked = tiny.table_of(["standard"], columns=["clean"], suites=["far", "near"])
    asked["suites"] = {"far": {"attacks": ["m_di2"], "surrogates": ["held_out_3"]}}
    asked["suites"]["near"] = {"attacks": ["pgd20"], "eps": [0.01]}
    asked["scales"]["demo"]["attacks"] |= {"m_di2": {"steps": 2}, "pgd20": {"steps": 2}}
    plan = tiny.place(tmp_path, monkeypatch, asked)
    frame, _, text = tiny.tabulated(plan, partial=True)
    assert set(frame["cut"]) == {"pgd20 m_di2"} or set(frame["cut"]) == {"m_di2 pgd20"}
    assert "m_di2 steps 2" in text and "pgd20 steps 2" in text


def test_files_and_pictures_say_lite_where_plan_and_claims_say_autoattack(tmp_path, monkeypatch):
    asked = cut(["autoattack"], ["clean", "autoattack"])
    plan = tiny.place(tmp_path, monkeypatch, asked)
    tiny.made(plan, ["standard"])
    drawn = []
    monkeypatch.setattr(
        dots, "draw", lambda details, title: drawn.append(details) or {".png": b"", ".pdf": b""}
    )
    frame, details, text = tiny.tabulated(plan)
    named = json.loads(Path("results/metrics/table1/standard.json").read_text())
    for place in (frame.columns, details["rows"]["standard"], drawn[0]["standard"], named):
        assert "autoattack_lite" in place and "autoattack" not in place
    assert "| autoattack_lite |" in text and "| autoattack |" not in text
    claim = {"table": "table1", "column": "autoattack", "better": "standard", "worse": "standard"}
    verdict, difference = claims.Ours(plan).verdict({**claim, "relation": "within", "points": "0"})
    assert (verdict, difference) == ("not at this scale", "+0.0 [-6.4, +6.4]")  # 30 images
    for name in ("autoattack", "autoattack_lite"):
        assert compare._find_column(plan, plan.table("table1"), name) == "autoattack"


def test_a_worst_case_of_a_suite_that_goes_on_from_another_joins_that_one_whatever_its_name():
    asked = tiny.table_of(["standard"], suites=["strong", "stronger", "core"], reference="none")
    asked["suites"] = {
        "strong": {"attacks": ["pgd10"], "stop_when_fooled": True},
        "stronger": {"attacks": ["mim50"], "stop_when_fooled": True, "after": "strong"},
        "core": {"attacks": ["fgsm"], "stop_when_fooled": True},
    }
    named = ["clean", "strong_worst", "stronger_worst", "core_worst"]
    asked["tables"]["table1"]["columns"] = named
    plan = Plan(asked)
    (cell,), found = plan.table("table1").cells, Columns(plan, plan.table("table1"))
    behind = [[attack for _, attack in found.behind(cell, name)] for name in named[1:]]
    assert behind == [["pgd10"], ["pgd10", "mim50"], ["fgsm"]]


@pytest.mark.parametrize("column", ["chosen_gate", "chosen_gate_l2", "avg"])
def test_a_column_of_an_attack_that_a_rows_victim_does_not_meet_is_refused_in_the_plan(column):
    """chosen_gate is for victims that choose a member; every row meets fgsm."""

    def planned(rows, members, named, means):
        asked = tiny.table_of(rows, suites=["unified"], members=[members], reference="none")
        asked["suites"]["unified"] = {"attacks": ["fgsm", "chosen_gate"]}
        asked["tables"]["table1"] |= {"columns": ["clean", "fgsm", *named], "means": means}
        return Plan(asked).table("table1")

    means = {"avg": ["fgsm", "chosen_gate"]} if column == "avg" else {}
    with pytest.raises(UserError, match="chosen_gate does not meet the row pgd_at ") as raised:
        planned(["soe", "pgd_at"], 2, [column], means)
    assert "params.yaml: tables.table1.columns: " in tiny.line(raised)
    planned(["soe"], 2, [column], means)
    planned(["soe", "pgd_at"], 2, ["most"], {"most": {"strongest": ["fgsm", "chosen_gate"]}})


def test_a_column_whose_attacks_the_scale_cuts_says_so():
    plan = Plan(published())
    named = name_columns(Tabulation(plan, plan.table("table1"), partial=True))
    assert named[:4] == ["clean", "mim50 (cut)", "pgd10", "pgd100 (cut)"]
    assert {"core_worst (cut)", "adaptive_worst (cut)", "members"} <= {*named}


def test_a_worst_case_is_one_whatever_its_column_is_called():
    """SoE's table names a suite, and a mean may be one of worst cases."""
    params = published() | {"scale": "paper"}
    plan = Plan(params)
    found = Columns(plan, plan.tables["soe_table1"])
    worst = {c: found.is_worst(c) for c in ("clean", "pgd50_5", "soe_adaptive", "core_worst")}
    assert worst == {"clean": False, "pgd50_5": False, "soe_adaptive": True, "core_worst": True}
    found.made["avg"] = ["clean", "core_worst"]
    assert found.is_worst("avg") and found.is_worst("core_worst_all")
    assert not found.is_worst("soe_strongest")
