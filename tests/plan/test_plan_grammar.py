"""What is said once: cuts that are inherited, suites on others, variants of a row, short lines."""

from fractions import Fraction

import pytest
from projects import ROOT, published

from pipeline.errors import UserError
from pipeline.plan import Plan, workflow
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.pages import pages


def entries(cuts, **attacks):
    """Entries at a scale with these cuts, some attacks added."""
    params = published()
    params["attacks"] |= attacks
    params["scales"]["mine"] = cuts
    return Entries(params | {"scale": "mine"})


def fields(found, name):
    return found.named_attack(name, Fraction(1)).fields


def test_a_cut_holds_for_entries_based_on_the_one_it_names():
    found = entries({"attacks": {"pgd10": {"steps": 5}}})
    assert [fields(found, n)["steps"] for n in ("pgd10", "pgd10_6", "pgd10_cooled")] == [5, 5, 5]
    assert fields(found, "pgd20")["steps"] == 20  # beside it, not on it


def test_a_nearer_cut_wins_key_by_key():
    cuts = {"members_pgd": {"steps": 10, "restarts": 2}, "chosen_gate": {"steps": 7}}
    found = entries({"attacks": cuts})
    for name in ("chosen_gate", "chosen_lower_02"):
        assert (fields(found, name)["steps"], fields(found, name)["restarts"]) == (7, 2)
    assert fields(found, "members_mean_ce")["steps"] == 10
    assert fields(found, "chosen_force_t")["restarts"] == 1  # its own: a bound raises nothing


def test_what_an_entry_says_itself_an_inherited_cut_leaves():
    far = {"base": "pgd_l2", "eps": "64/255", "steps": 3}
    found = entries({"attacks": {"pgd_l2": {"eps": "20/255", "steps": 20}}}, far=far)
    assert fields(found, "far")["eps"] == 64 / 255 and fields(found, "far")["steps"] == 3
    assert fields(found, "pgd_l2")["eps"] == 20 / 255


def test_an_option_at_its_usual_value_is_in_no_name():
    found = entries({}, near={"base": "fab", "norm": "linf"}, far={"base": "fab", "norm": "l2"})
    assert fields(found, "near") == fields(found, "fab") and "norm" not in fields(found, "fab")
    assert fields(found, "far") == {**fields(found, "fab"), "norm": "l2"}


def test_an_uncut_entry_has_full_strength_at_every_scale():
    cuts = {"attacks": {"autoattack": {"queries": 9}, "apgd_t": {"targets": 1}}}
    found = entries(cuts, based={"base": "full_apgd_t"})
    assert fields(found, "autoattack_rand")["queries"] == 9
    assert fields(found, "full_autoattack")["queries"] == 5000
    assert fields(found, "based")["targets"] == 9


def test_a_recipes_cut_is_inherited_too():
    found = entries({"recipe": {"epochs": 50}, "recipes": {"cat_aka": {"epochs": 4}}})
    assert found.recipe("cat_aka_wrn", {})[0]["epochs"] == 4
    assert found.recipe("unified", {})[0]["epochs"] == 50


def test_a_suite_based_on_another_is_that_with_its_own_keys():
    plan = Plan(published() | {"scale": "paper"})
    found = plan.entries.entry("suites", "dverge_black_03")[1]
    assert found["eps"] == [0.03] and len(found["attacks"]) == 10
    assert found["surrogates"] == plan.entries.section("suites")["transfer30"]["surrogates"]


def with_rows(rows, cut):
    params = published()
    params["tables"] = {"table1": params["tables"]["table1"] | {"rows": rows, "members": [1]}}
    params["figures"] = {}
    for scale in params["scales"].values():
        scale.pop("figures", None)
        scale.pop("tables", None)
    params["scales"]["demo"]["tables"] = {"table1": cut}
    return Plan(params | {"scale": "demo"})


def rows_of(plan, name):
    return list(dict.fromkeys(cell.row for cell in plan.tables[name].cells))


def test_rows_in_inner_brackets_are_left_out_without_variants():
    rows = ["pgd_at", ["pgd_at_ema", "pgd_at_long"], "trades", ["trades_joint"]]
    flat = ["pgd_at", "pgd_at_ema", "pgd_at_long", "trades", "trades_joint"]
    plan = with_rows(rows, {"variants": False})
    assert rows_of(plan, "table1") == ["pgd_at", "trades"]
    assert rows_of(plan, "table1_all") == flat
    whole = with_rows(rows, {})
    assert rows_of(whole, "table1") == flat and "table1_all" not in whole.tables
    assert whole.tables["table1"].digest == with_rows(flat, {}).tables["table1"].digest


def test_a_scale_chooses_rows_in_one_way():
    with pytest.raises(UserError, match=r"tables.table1: `rows` and `variants` both choose rows"):
        with_rows(["standard", ["pgd_at"]], {"variants": False, "rows": ["pgd_at"]})


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *pages(ROOT / "params.yaml")], ids=str)
def test_no_line_is_longer_than_200_characters_but_lists_of_rows(path):
    lines = path.read_text().splitlines()
    assert [n for n, line in enumerate(lines, 1) if len(line) > 200 and " rows: " not in line] == []


def test_a_table_is_made_under_its_path_alone():
    """results/meat_gain.csv was made as results/meat/gain.csv, and missed by Snakemake."""
    plan = Plan(published())
    with pytest.raises(SystemExit, match="meat_gain.csv: table meat_gain is made as results/meat/"):
        workflow.inputs(plan, "tabulate", {"folder": "", "table": "meat_gain"})
    assert workflow.inputs(plan, "tabulate", {"folder": "meat/", "table": "gain"})
