"""The unified table compares every method: at the papers' scale, and by family at `short`."""

from functools import cache

import pytest
import yaml
from projects import ROOT, published

from pipeline.plan import Plan
from pipeline.plan.params.schema import available


@cache
def rows(scale):
    """The unified table at a scale, and all runs that its rows rest on."""
    params = published() | {"scale": scale, "figures": {}}
    params["tables"] = {"table1": params["tables"]["table1"]}
    for cut in params["scales"].values():
        cut.pop("figures", None)
        if kept := cut.pop("tables", {}).get("table1"):
            cut["tables"] = {"table1": kept}
    plan = Plan(params)
    cells = plan.table("table1").cells
    assert all(cell.victim for cell in cells)  # none is planned
    runs = [plan.run(part.run) for cell in cells for part in cell.victim.elements]
    return cells, runs, [plan.run(id) for run in runs for id in run.parents]


@pytest.mark.parametrize("scale", ["short", "paper"])
def test_every_method_has_a_row(scale):
    _, runs, parents = rows(scale)
    found = {run.spec["method"]["component"] for run in [*runs, *parents] if "method" in run.spec}
    assert found == set(available("methods"))


def test_every_entry_of_a_method_has_a_row_or_is_trained_for_one():
    _, runs, parents = rows("paper")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # As long a training as one method's: what the audit sets beside that method alone
    equal = {row for row in params["tables"]["gains"]["rows"] if "_equal_" in row}
    assert equal and params["methods"].keys() - equal <= {run.entry for run in [*runs, *parents]}


def test_the_demo_has_at_most_fourteen_rows():
    assert len({cell.row for cell in rows("demo")[0]}) <= 14
