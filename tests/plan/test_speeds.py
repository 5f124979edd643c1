"""Estimates learn from the seconds of finished jobs, by stage and device, here or recorded."""

import json

import pytest
from projects import published

from pipeline.plan import Plan
from pipeline.plan.estimate import PROCESS, record_flops, run_flops, seconds
from pipeline.plan.speeds import measure
from pipeline.plan.state import headline, states
from pipeline.store.manifest import Line
from pipeline.store.sums import beside

PLAN = Plan(published())
TABLE = PLAN.table("table1")
RUNS = [r for r in PLAN.needs(TABLE)[1] if r.stage == "train"]
RECORDS = [r for r in PLAN.needs(TABLE)[0] if not r.sets]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tell(artifact, content):
    path = beside(artifact.outputs[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_without_a_finished_job_the_scale_says_the_speed():
    speeds = measure(PLAN, [TABLE])
    assert speeds.describe() == f"at {PLAN.entries.gflops:g} GFLOP/s"
    assert {speeds.of(stage) for stage in ("train", "evaluate")} == {PLAN.entries.gflops}


def test_each_stage_has_the_speed_of_its_jobs_on_the_device_with_most():
    for run in RUNS[:2]:
        tell(run, {"device": "cpu x86_64", "seconds": run_flops(PLAN, run) / 5e9})
    tell(RECORDS[0], {"device": "cpu x86_64", "seconds": record_flops(PLAN, RECORDS[0]) / 8e9})
    tell(RUNS[2], {"device": "NVIDIA H100", "seconds": run_flops(PLAN, RUNS[2]) / 9e12})

    speeds = measure(PLAN, [TABLE])
    assert speeds.of("train") == speeds.of("trajectory") == pytest.approx(5)
    assert speeds.of("evaluate") == speeds.of("transfer") == pytest.approx(8)
    assert speeds.of("average") == PLAN.entries.gflops
    said = "at the GFLOP/s of 3 finished jobs on cpu x86_64 (train 5, evaluate 8)"
    assert speeds.describe() == said

    needed = states(PLAN, [TABLE], speeds)
    own = next(s for s in needed if s.id == RUNS[3].id)
    assert own.seconds == pytest.approx(PROCESS + run_flops(PLAN, RUNS[3]) / 5e9)
    assert own.seconds == seconds(PLAN, [RUNS[3]], speeds.of)
    assert said in headline(PLAN, [TABLE], needed, speeds)


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"device": 1}', {"device": "cpu", "seconds": -1}, '{"seconds": NaN}']
)
def test_a_damaged_file_of_times_teaches_nothing(damage):
    tell(RUNS[0], damage)
    assert not measure(PLAN, [TABLE]).jobs


def test_what_only_the_manifest_has_counts_too(tmp_path):
    line = Line(
        artifact=RUNS[0].path.as_posix(),
        sha256={name.name: "0" * 64 for name in RUNS[0].outputs},
        bytes=1,
        rests_on={},
        plan="0123456789",
        date="2026-01-01T00:00:00+00:00",
        host="cpu arm64",
        versions={},
        seconds=run_flops(PLAN, RUNS[0]) / 2e9,
    )
    (tmp_path / "results").mkdir()
    (tmp_path / "results/manifest.jsonl").write_text(line.text() + "\n")
    speeds = measure(PLAN, [TABLE])
    assert (speeds.device, speeds.of("train")) == ("cpu arm64", pytest.approx(2))
