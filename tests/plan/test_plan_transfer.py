"""Transfer sets of the papers' plan: thirty variants, three of them, on both data sets."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
import tiny
import torch
from test_plan_scales import plan_of
from victims import Exact, held_out

from pipeline.core.draws import Draws, derive
from pipeline.loading.registry import build
from pipeline.plan import Plan, Record, TransferSet

SIZES = {"held_out_3": 3, "held_out_5": 5, "held_out_8": 8}
STARTS = {"ce": ["mpgd", "mpgd_1", "mpgd_2"], "margin": ["mpgd_cw", "mpgd_1_cw", "mpgd_2_cw"]}


def records(table: str, suite: str) -> dict[str, Record]:
    """Those of a table that are not planned yet, by victim."""
    found = [c.records[suite] for c in plan_of("paper").table(table).cells if c.victim]
    return {record.victim.id: record for record in found}


def sets(record: Record) -> list[TransferSet]:
    return [plan_of("paper").set(id) for id in record.sets]


@pytest.mark.parametrize(
    ("table", "suite"),
    [("soe_table3", "transfer30"), ("aute_standard", "transfer30")]
    + [("aute_radii", f"dverge_black_0{n}") for n in range(1, 8)],
)
def test_thirty_variants_are_three_sizes_by_two_losses_by_five_runs(table, suite) -> None:
    for record in records(table, suite).values():
        found = sets(record)
        assert len({made.id for made in found}) == len(found) == 30
        for size, members in SIZES.items():
            own = [m for m in found if m.surrogate.entry == size]
            assert {len(m.surrogate.elements) for m in own} == {members}
            for loss, starts in STARTS.items():
                runs = {m.name: m.attack["fields"] for m in own}
                runs = {name: run for name, run in runs.items() if run["loss"] == loss}
                begun = [n.partition("_eps")[0] for n, r in runs.items() if r["start"] == "uniform"]
                assert len(runs) == 5 and begun == starts  # three starts, which differ by name
                others = [r for r in runs.values() if r["start"] == "none"]
                skips = sorted((r["probability"], r["gamma"]) for r in others)
                assert skips == [(0, 0.2), (0.5, 1)]  # SGM and M-DI2


def test_a_librarys_attack_crafts_transfer_sets_too() -> None:
    """Its radius stands among its arguments; one that no ball bounds has none."""
    asked = tiny.table_of(["standard"], suites=["mine"], columns=["clean", "held_out_3_jit"])
    jit = {"base": "torchattacks", "class": "DIFGSM", "norm": "linf", "eps": "8/255", "steps": 5}
    asked["attacks"] |= {"jit": jit, "free": {"base": "torchattacks", "class": "VANILA"}}
    asked["suites"]["mine"] = {"attacks": ["jit", "free"], "surrogates": ["held_out_3"]}
    (cell,) = Plan(asked).table("table1").cells
    told = {name: spec["fields"] for name, spec in cell.records["mine"].attacks}
    assert told["held_out_3_jit"] == {"eps": pytest.approx(0.2), "norm": "linf"}
    assert told["held_out_3_free"] == {"eps": None, "norm": "none"}


def test_runs_of_other_names_start_elsewhere() -> None:
    images, labels, _ = held_out(4)
    made = sets(next(iter(records("soe_table3", "transfer30").values())))[:3]
    assert len({json.dumps(m.attack["fields"]) for m in made}) == 1
    attack = replace(build("attacks", made[0].attack), steps=0)
    starts = [
        attack(Exact(), images, labels, Draws(derive(0, m.name), torch.arange(4))) for m in made
    ]
    for one, other in combinations([images, *starts], 2):
        assert not torch.equal(one, other)


def test_the_three_variants_are_some_of_the_thirty() -> None:
    three, thirty = records("soe_table2", "transfer3"), records("soe_table3", "transfer30")
    assert three.keys() == thirty.keys() and three
    for victim, record in three.items():
        few, many = sets(record), sets(thirty[victim])
        assert len({m.id for m in few}) == 3 and {m.id for m in few} < {m.id for m in many}
        assert {m.surrogate.entry for m in few} == {"held_out_3"}


def test_both_data_sets_have_sets_at_every_radius() -> None:
    radii = {}
    for n in range(1, 8):
        for record in records("aute_radii", f"dverge_black_0{n}").values():
            for made in sets(record):
                assert made.surrogate.dataset.name == record.victim.dataset.name
                key = made.surrogate.dataset.name
                radii.setdefault(key, set()).add(made.attack["fields"]["eps"])
    asked = pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07])
    assert {name: sorted(found) for name, found in radii.items()} == {
        "cifar10": asked,
        "cifar100": asked,
    }
