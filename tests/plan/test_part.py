"""A job reads its own part of its workflow's plan, and finds in it what the whole one says."""

import pytest
from projects import published

from pipeline.plan import Plan, frozen, load_part, workflow
from pipeline.plan.params import reader


@pytest.fixture(scope="module")
def plan():
    return Plan(published() | {"scale": "demo"})


@pytest.fixture(scope="module")
def copy(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy of #1?")
    plan.lay(folder)
    return folder


@pytest.fixture
def laid(copy, monkeypatch):
    def refuse(_):
        raise AssertionError("the whole plan was read")

    monkeypatch.setenv(frozen.VARIABLE, str(copy))
    monkeypatch.setattr(reader, "read", refuse)


def test_every_run_is_found_with_all_it_rests_on(plan, laid):
    for id, run in list(plan.graph.runs.items())[::7]:
        part = load_part(id)
        assert part.run(id) == run and part.snapshots_from(id) == plan.snapshots_from(id)
        assert all(part.run(parent) == plan.run(parent) for parent in run.parents)
        assert (part.scale, part.entries.threads) == (plan.scale, plan.entries.threads)


def test_every_record_and_set_is_found_by_id_and_by_file(plan, laid):
    for id, record in list(plan.graph.records.items())[::40]:
        part = load_part(str(record.path))
        assert part.record(id) == record and load_part(id).record(id) == record
        sources = [part.set(made).surrogate for made in record.sets]
        for element in [e for victim in (record.victim, *sources) for e in victim.elements]:
            assert part.run(element.run) == plan.run(element.run)
    for id, made in plan.graph.sets.items():
        assert load_part(str(made.path)).set(id) == made


def test_a_part_is_no_more_than_a_job_needs(plan, laid):
    run = next(r for r in plan.graph.runs.values() if r.entry == "standard")
    assert len(load_part(run.id).graph.runs) < len(plan.graph.runs) / 2
    assert load_part(run.id).graph.records == {} and load_part(run.id).targets == {}


def test_the_snakemake_of_a_job_reads_its_part_and_the_main_one_the_whole(plan, laid):
    record = next(iter(plan.graph.records.values()))
    victim, _, suite = record.id.partition("/")
    part = workflow.load(["--target-jobs", f"evaluate:suite={suite},victim={victim}"], False)
    assert part.record(record.id) == record
    pack = ["-m", "snakemake", *(f"train:run={id}" for id in list(plan.graph.runs)[:2])]
    assert len(workflow.load(pack, False).graph.runs) >= 2
    for figure in list(plan.figures.values())[:2]:
        part = workflow.load([f"figure:figure={figure.stem}"], False)
        assert part.figure(figure.name) == figure
        named = {"figure": figure.stem}
        found = workflow.inputs(part, "figure", named)
        assert found == workflow.inputs(plan, "figure", named) != []
    for jobs, is_main in (
        (pack[:2], False),
        (pack, True),
        (["tabulate:folder=,table=table1"], False),
    ):
        with pytest.raises(AssertionError, match="whole plan"):
            workflow.load(jobs, is_main)


def test_by_hand_and_of_a_copy_without_artifacts_the_plan_is_whole(plan, tmp_path, monkeypatch):
    for folder in (None, tmp_path):
        if folder:
            (folder / "params.yaml").write_text("scale: [")
            monkeypatch.setenv(frozen.VARIABLE, str(folder))
            with pytest.raises(Exception, match="not valid YAML"):
                load_part("any")
        else:
            monkeypatch.delenv(frozen.VARIABLE, raising=False)
            assert len(load_part("any").tables) > 1
