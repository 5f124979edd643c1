"""The line after each job: shares by work, corrected by what jobs took; rows; time at this pace."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from pipeline.cluster import headway
from pipeline.job.logs import find_pack_log
from pipeline.plan.graph.targets import Table
from pipeline.plan.state import states


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A table of two rows, nothing made but data."""
    return tiny.place(tmp_path, monkeypatch, tiny.table_of(["pgd_at", "standard"]))


def job_of(number, artifact):
    """A job as Snakemake shows it."""
    words = {"run": artifact.id}
    if artifact.stage == "evaluate":
        words = dict(zip(("victim", "suite"), artifact.id.split("/"), strict=True))
    if isinstance(artifact, Table):
        words = {"folder": "", "table": artifact.name}
    log = Path("logs") / artifact.stage / f"{artifact.id}.log"
    return SimpleNamespace(jobid=number, rule=artifact.stage, wildcards_dict=words, log=[log])


@pytest.fixture
def started(plan):
    """Its workflow at second 0, what each job makes by number, and a clock to set."""
    table = plan.table("table1")
    needed = [s.artifact for s in states(plan, [table]) if s.status == "need"] + [table]
    made = dict(enumerate(needed))
    clock = [0.0]
    jobs = [job_of(number, artifact) for number, artifact in made.items()]
    return headway.Headway(plan, jobs, lambda: clock[0]), made, clock


def end(begun, made, number, seconds):
    """A job has ended, and its files say after how many seconds."""
    path = headway.beside(made[number].outputs[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds}))
    begun.finish(number)


def test_shares_are_of_work_and_stages_weigh_what_their_jobs_took(started):
    begun, made, clock = started
    weights = {s.artifact.path: s.seconds for s in begun.left.values()}
    first, second = (n for n, a in made.items() if a.stage == "train")
    estimates = [weights[made[n].path] for n in (first, second)]

    clock[0] = 30.0
    end(begun, made, first, 10 * estimates[0] - headway.PROCESS)  # ten times as slow as thought
    begun.line()
    clock[0] = 60.0
    end(begun, made, second, 10 * estimates[1] - headway.PROCESS)
    # what has not run yet is taken to be as much slower: the share is that of the estimates
    share = int(100 * sum(estimates) / sum(weights.values()))
    left = 60 * (sum(weights.values()) / sum(estimates) - 1)
    said = f"{share} % of the work, about {headway._say(left)} left, 0 of 2 rows; finished: train "
    assert begun.line().startswith(said)

    # evaluations prove ten times as fast as trainings: the trainings were nearly all
    number, record = next((n, a) for n, a in made.items() if a.stage == "evaluate")
    end(begun, made, number, weights[record.path] - headway.PROCESS)
    rest = sum(w for path, w in weights.items() if path in begun.left)
    done = 10 * sum(estimates) + weights[record.path]
    assert begun.line().startswith(f"{int(100 * done / (done + rest))} % of the work, ")


def test_a_row_is_done_with_its_last_record_and_all_is_with_the_last_job(started):
    begun, made, _ = started
    *others, table = made
    for number in others:
        begun.finish(number)
        if made[number].stage == "evaluate":
            done = {r.path for a in made.values() for r in getattr(a, "records", ())}
            done -= set(begun.left)
            rows = [c for c in made[table].cells if {r.path for r in c.records.values()} <= done]
            assert f", {len(rows)} of 2 rows; finished: " in begun.line()
    begun.finish(table)
    assert begun.line().startswith("100 % of the work, 2 of 2 rows; finished: ")


def test_what_runs_counts_by_the_steps_of_this_try(started):
    begun, made, clock = started
    begun.since = 1e9  # the files below are older or newer
    number, run = next((n, a) for n, a in made.items() if a.stage == "train")
    log = job_of(number, run).log[0]
    log.parent.mkdir(parents=True)
    lines = [f"{run.id}: {step}/10 loss 1 (1 s each, 1 s left)\n" for step in (7, 8)]
    log.write_text("# a command\n" + "".join(lines))
    assert begun._measure_share(begun.left[run.path]) == 0.2  # six epochs are of an earlier one

    weights = {s.artifact.path: s.seconds for s in begun.left.values()}
    share = int(100 * 0.2 * weights[run.path] / sum(weights.values()))
    assert share > 0 and begun.line().startswith(
        "0 % of the work"
    )  # not begun: its log is not read
    begun.begin([number])
    assert begun.line().startswith(f"{share} % of the work")
    beside = find_pack_log(run.id)  # while another job of its pack trains it
    beside.write_text("".join([*lines, lines[-1].replace("8/10", "9/10")]))
    assert begun._measure_share(begun.left[run.path]) == pytest.approx(0.3)
    begun.since = 1e12
    assert begun._measure_share(begun.left[run.path]) == 0.0  # another workflow's log


def test_work_that_is_unknown_is_called_so(started):
    begun, made, _ = started
    begun.left = {p: headway.State(s.artifact, s.status, None) for p, s in begun.left.items()}
    begun.finish(0)
    said = f"1 of {len(made)} jobs; the work is unknown (an arch states no `macs`, or a data set"
    assert begun.line().startswith(said)


def test_many_jobs_that_end_together_are_counted(started):
    begun, _, _ = started
    for number in range(4):
        begun.finish(number)
    assert begun.line().endswith(", and 2 more") and begun.told == []


def test_a_job_that_saved_and_stopped_is_said_to_have_stopped_and_not_to_have_failed(started):
    begun, made, _ = started
    number, run = next((n, a) for n, a in made.items() if a.stage == "train")
    job = job_of(number, run)
    job.log[0].parent.mkdir(parents=True)
    said = f"stopped: {run.id}: saved in epoch 5; run again to resume"
    for last, expected in ((said, said), ("error: no", f"failed: train {run.id[:-11]}: error: no")):
        job.log[0].write_text(f"# a command\n{last}\n")
        assert begun.fail(job) == expected
