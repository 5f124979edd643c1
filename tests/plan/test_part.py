"""A job reads its own part of its workflow's plan, and finds in it what the whole one says."""

import io
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from projects import published

from pipeline.plan import Plan, frozen, load_part, part, workflow
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


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # the latter: Python 3.13
def test_the_path_of_any_python_is_part_of_a_plan(module):
    row = f"c{module}\nPosixPath\n(Vresults\ntR.".encode()
    reader = part._Artifacts(io.BytesIO(row))
    if module in sys.modules:
        assert reader.load() == Path("results")
    else:
        with pytest.raises(ModuleNotFoundError):  # allowed, and of another Python
            reader.load()


def test_artifacts_whose_paths_were_asked_are_laid_and_read(plan, tmp_path):
    """On Python 3.13 every job called such a plan damaged."""
    run = next(iter(plan.graph.runs.values()))
    run.is_here()  # which keeps its paths
    plan.lay(tmp_path)
    _, artifacts = part.read(tmp_path, [run.id])
    assert run in artifacts


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


def calling(module: str, name: str, argument: str) -> bytes:
    """A pickle, protocol 4, that calls `name` of `module`, which may go through what it imports."""
    words = [b"\x8c" + bytes([len(w)]) + w.encode() for w in (module, name, argument)]
    return b"\x80\x04" + words[0] + words[1] + b"\x93" + words[2] + b"\x85R."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "mkdir"),
        ("pipeline.plan.frozen", "os.mkdir"),
        ("pipeline.plan.frozen", "freeze"),  # a function of the plan's own
        ("pipeline.plan.frozen", "Path"),  # a class that a module of the plan imports
    ],
)
def test_a_row_that_names_more_than_the_plans_own_classes_is_damaged_and_calls_nothing(
    tmp_path, capsys, monkeypatch, module, name
):
    called = []
    monkeypatch.setattr(frozen, "freeze", called.append)
    monkeypatch.setattr("pipeline.plan.frozen.os.mkdir", called.append)
    monkeypatch.setattr(frozen, "Path", called.append if name == "Path" else Path)
    rows = [part._summed("x", "[]", calling(module, name, "owned")), part._summed("", "[]", b"{}")]
    with closing(sqlite3.connect(tmp_path / part.NAME)) as file, file:
        file.execute("CREATE TABLE artifacts (id TEXT, needs TEXT, artifact BLOB, sum TEXT)")
        file.executemany("INSERT INTO artifacts VALUES (?, ?, ?, ?)", rows)
    assert part.read(tmp_path, []) == ({}, [])
    assert part.read(tmp_path, ["x"]) is None and called == []
    assert "plan.sqlite: is damaged, so the whole plan is read" in capsys.readouterr().out
