"""Jobs that the longest chain waits for go first."""

import pytest
import tiny
from projects import small

from pipeline.plan import Plan
from pipeline.plan.estimate import seconds
from pipeline.plan.order import Order


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = tiny.table_of(["standard", "meat"], members=[2])
    found["suites"]["adaptive"] |= {"stop_when_fooled": True, "after": "core"}
    found["suites"]["core"] |= {"stop_when_fooled": True}
    return Plan(found)


def test_a_rank_is_the_longest_way_to_the_end(plan) -> None:
    order, records = Order(plan), list(plan.graph.records.values())
    for record in records:
        waiting = [r for r in records if record in r.inputs(plan.graph)]
        own = seconds(plan, [record])
        longest = max(map(order.rank, waiting), default=0)
        assert own and order.rank(record) == pytest.approx(own + longest)
    assert any(record.before for record in records)


def test_a_training_goes_before_its_average_and_that_before_its_records(plan) -> None:
    order, graph = Order(plan), plan.graph
    (average, *_) = [run for run in graph.runs.values() if run.stage == "average"]
    records = [r for r in graph.records.values() if r.victim.elements[0].run == average.id]
    ranks = [order.rank(graph.runs[average.parents[0]]), order.rank(average)]
    assert ranks[0] > ranks[1] > max(map(order.rank, records)) > 0
    core, adaptive = (next(r for r in records if r.suite == s) for s in ("core", "adaptive"))
    assert order.rank(core) > order.rank(adaptive)


def test_an_arch_without_macs_has_no_rank_of_its_own() -> None:
    found = small()
    for arch in found["archs"].values():
        arch.pop("macs", None)
    plan = Plan(found)
    assert all(Order(plan).rank(run) == 0 for run in plan.graph.runs.values())
