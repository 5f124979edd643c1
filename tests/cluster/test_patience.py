"""Patience with SLURM, on the executor's own code, its commands small scripts."""

import asyncio
import logging
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin

from pipeline.cluster import patience
from pipeline.cluster.site import PROFILE


class Limiter:
    async def __aenter__(self):
        pass

    async def __aexit__(self, *_):
        pass


class Executor:
    """What check_active_jobs uses of an executor; what it reports is noted."""

    __module__ = plugin.__name__
    check_active_jobs = plugin.Executor.check_active_jobs
    get_status_command = plugin.Executor.get_status_command

    def __init__(self):
        settings = SimpleNamespace(
            status_attempts=1,
            status_command="squeue",
            init_seconds_before_status_checks=1,
            keep_successful_logs=True,
            requeue=True,
        )
        self.workflow = SimpleNamespace(executor_settings=settings)
        self.logger, self.status_rate_limiter = logging.getLogger("test"), Limiter()
        self.run_uuid, self.active_jobs, self._preemption_warning = "run", [], False
        self._status_query_calls = self._status_query_failures = 0
        self._status_query_total_seconds = self._status_query_max_seconds = 0.0
        self._status_query_min_seconds, self._status_query_cycle_rows = None, []
        self.next_seconds_between_status_checks, self._failed_nodes = 1, set()
        self.done, self.failed, self.submitted, self.cancelled = [], [], [], []
        self.refusals = []
        self._job_submission_executor = ThreadPoolExecutor(1)

    def report_job_success(self, info):
        self.done.append(info.external_jobid)

    def report_job_error(self, info, msg, aux_logs=()):
        self.failed.append(info.external_jobid)

    def run_job(self, job):
        if self.refusals:
            info = SimpleNamespace(job=job, external_jobid=None)
            self._report_job_error_threadsafe(info, SBATCH.format(self.refusals.pop(0)))
        else:
            self.submitted.append(job)

    def cancel_jobs(self, jobs):
        self.cancelled = [job.external_jobid for job in jobs]

    def _report_job_error_threadsafe(self, info, message):
        self.failed.append(message)


SBATCH = "SLURM sbatch failed. The error message was '{}'.\n    sbatch call:\n        sbatch\n"


class Lab:
    """An executor with patience, a clock, and scripts in the place of SLURM's commands."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.time = folder, 0.0
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)  # restored
        self.script("scontrol", "echo 'MinJobAge = 3600 sec'")
        self.executor = Executor()
        self.kills, self.overruns = Counter(), Counter()
        self.patience = patience.Patience(
            self.executor, plugin, self.kills, self.overruns, lambda: self.time
        )

    def script(self, name, text):
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def look(self, *jobs):
        """Ids of the jobs that are still active after a look."""

        async def ask():
            return [job.external_jobid async for job in self.executor.check_active_jobs(jobs)]

        return asyncio.run(ask())


def single(run, *output, log=()):
    return SimpleNamespace(
        output=output, log=log, wildcards_dict={"run": run}, is_group=lambda: False
    )


def job(id, *output, log=()):
    return SimpleNamespace(external_jobid=id, aux={}, job=single(f"run{id}", *output, log=log))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    return Lab(tmp_path, monkeypatch)


def test_without_patience_an_executor_forgets_its_jobs(lab):
    """The fault of 2.8.0; when this fails, patience may go."""
    lab.script("squeue", "exit 1")
    lab.executor.check_active_jobs = lab.patience._check
    plugin.query_job_status = lab.patience._query
    assert lab.look(job("1")) == [] and not lab.executor.done and not lab.executor.failed


def test_a_mute_squeue_loses_no_job_and_is_told_of(lab, capsys):
    lab.script("squeue", "exit 1")
    for lab.time in (10, 70, 80, 200):
        assert lab.look(job("1")) == ["1"]
    lab.script("squeue", "echo '1|COMPLETED'")
    assert lab.look(job("1")) == [] and lab.executor.done == ["1"]
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "squeue: no answer for 70 s; SLURM's jobs go on, this waits",
        "squeue: no answer for 200 s; SLURM's jobs go on, this waits",
        "SLURM answers again",
    ]


def test_without_slurmctld_no_accounting_is_needed(lab):
    lab.script("scontrol", "exit 1")  # so that MinJobAge is not known, and sacct asked
    lab.script("sacct", "echo Slurm accounting storage is disabled >&2; exit 1")
    lab.script("squeue", "exit 1")
    assert lab.look(job("1")) == ["1"]


def test_a_job_that_slurm_forgot_is_over_in_time(lab, tmp_path):
    lab.script("squeue", "echo '3|RUNNING'")
    (tmp_path / "made").touch()
    jobs = job("1", tmp_path / "made"), job("2", tmp_path / "made", tmp_path / "absent"), job("3")
    for lab.time in (0, patience.LOST_SECONDS):
        assert lab.look(*jobs) == ["1", "2", "3"]
    lab.time += 1
    assert lab.look(*jobs) == ["3"]
    assert lab.executor.done == ["1"] and lab.executor.failed == ["2"]


def test_a_preempted_job_that_is_not_requeued_is_over_and_one_that_is_goes_on(lab):
    jobs = job("1", Path("absent")), job("2", Path("absent"))
    for lab.time, second in ((0, "PREEMPTED"), (300, "RUNNING"), (601, "PREEMPTED")):
        lab.script("squeue", f"echo '1|PREEMPTED'; echo '2|{second}'")
        active = lab.look(*jobs)
    assert active == ["2"] and lab.executor.failed == ["1"]


def test_a_cancelled_job_of_the_accounting_is_over(lab):
    lab.script("squeue", "echo '1|CANCELLED by 1000'")
    assert lab.look(job("1")) == [] and lab.executor.failed == ["1"]


@pytest.mark.parametrize(
    ("words", "active", "waits"),
    [
        ("sbatch: error: Slurm temporarily unable to accept job", [], True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job", [], True),
        ("Batch job submission failed: Unable to contact slurm controller", [], True),
        ("sbatch: error: QOSGrpSubmitJobsLimit\nsbatch: error: " + patience.LIMIT, [], True),
        ("sbatch: error: " + patience.LIMIT, ["1"], True),
        ("sbatch: error: " + patience.LIMIT, [], False),
        ("sbatch: error: invalid partition specified: gpuu", ["1"], False),
    ],
)
def test_a_busy_slurm_is_waited_out_and_a_wrong_request_is_not(
    lab, monkeypatch, capsys, words, active, waits
):
    monkeypatch.setattr(patience, "BUSY_SECONDS", 0.01)
    lab.executor.refusals, lab.executor.active_jobs = [words] * 2, active
    done = threading.Event()
    monkeypatch.setattr(lab.executor, "submitted", SimpleNamespace(append=lambda _: done.set()))
    lab.executor.run_job(single("a"))
    assert done.wait(5 if waits else 0) == waits
    assert len(lab.executor.failed) == (0 if waits else 1)
    said = capsys.readouterr().err
    assert ("SLURM takes no job now" in said) == waits == ("sbatch refused" not in said)
    assert not waits or words.splitlines()[0] in said


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("invalid partition specified: gpuu", f"{PROFILE}:3: slurm_partition: gpuu"),
        ("Invalid account or account/partition combination", f"{PROFILE}:2: # slurm_account: x"),
        ("Invalid feature specification", "SBATCH_CONSTRAINT=a100 in the environment"),
        ("Requested node configuration is not available", f"{PROFILE}:4: gpu_syntax: gres"),
        ("Invalid qos specification", f"{PROFILE}:5: slurm-qos: nope"),
        ("Memory specification can not be satisfied", "`resources:` of params.yaml"),
        ("Requested time limit is invalid (missing or ...)", "`resources:` of params.yaml"),
    ],
)
def test_a_refused_job_says_once_sbatchs_last_line_and_what_to_change(
    lab, tmp_path, monkeypatch, capsys, words, remedy
):
    (tmp_path / "slurm").mkdir()
    lines = ["default-resources:", "  # slurm_account: x", "  slurm_partition: gpuu"]
    (tmp_path / "slurm/config.yaml").write_text(
        "\n".join([*lines, "  gpu_syntax: gres", "slurm-qos: nope", ""])
    )
    monkeypatch.chdir(tmp_path)
    for name in ("ACCOUNT", "PARTITION"):
        monkeypatch.delenv(f"SBATCH_{name}", raising=False)
    monkeypatch.setenv("SBATCH_CONSTRAINT", "a100")

    lab.executor.refusals = [f"sbatch: lua: hello\nsbatch: error: {words}"] * 2
    for run in ("a", "b"):
        lab.executor.run_job(single(run))
    assert capsys.readouterr().err == f"sbatch refused: {words}; change {remedy}\n"


def test_a_master_that_ends_submits_no_more_and_cancels_what_it_was_asking_about(lab):
    async def interrupted():
        async for _ in lab.executor.check_active_jobs([job("1"), job("2")]):
            lab.executor.cancel_jobs([job("2"), job("3")])

    lab.script("squeue", "echo '1|RUNNING'")
    asyncio.run(interrupted())
    assert lab.executor.cancelled == ["1", "2", "3"]
    lab.executor.run_job(single("a"))
    assert lab.executor.submitted == []


def test_a_submission_that_ends_in_a_trace_is_a_failed_job(lab, monkeypatch):
    def broken(_):
        raise AttributeError("no attribute rule")

    monkeypatch.setattr(lab.patience, "_run", broken)
    lab.executor.run_job(single("a"))
    assert lab.executor.failed == ["AttributeError: no attribute rule"]


def test_an_ended_slice_is_submitted_again_and_a_crash_is_not(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {
        "1": "# SLURM job 1, node n\nstopped: saved",
        "2": "# SLURM job 2, node n\nerror: no",
        "3": "# SLURM job 30, node n\nstopped: an earlier slice",
    }
    for id, text in texts.items():
        Path(id).write_text(text)
    jobs = [job(id, log=[id]) for id in texts] + [job("4", log=["absent"]), job("5"), job("6")]
    for id in ("5", "6"):
        Path(f"work/runs/run{id}").mkdir(parents=True)
        Path(f"work/runs/run{id}/state.pt").write_text("state")
        lab.patience.run(jobs[int(id) - 1].job)
    os.utime("work/runs/run5/state.pt")
    ends = {"1": "FAILED", "2": "FAILED", "3": "FAILED", "4": "FAILED", "5": "TIMEOUT"}
    states = ends | {"6": "TIMEOUT"}
    lab.script("squeue", "".join(f"echo '{id}|{state}';" for id, state in states.items()))
    lab.executor.submitted.clear()
    lab.executor.next_seconds_between_status_checks = 50
    assert lab.look(*jobs) == [] and lab.executor.failed == ["2", "3", "4", "6"]
    lab.executor._job_submission_executor.shutdown()
    assert lab.executor.submitted == [jobs[0].job, jobs[4].job]
    assert lab.executor.next_seconds_between_status_checks == 1


def test_a_kill_for_memory_is_counted_and_no_other_end_is(lab):
    lab.script("squeue", "echo '1|OUT_OF_MEMORY'; echo '2|FAILED'; echo '3|TIMEOUT'")
    assert lab.look(job("1"), job("2"), job("3")) == []
    assert lab.kills == {"run1": 1} and lab.executor.failed == ["1", "2", "3"]
    assert lab.overruns == {"run3": 1}


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks", 1),
        ("slurmstepd: error: Detected 2 oom-kill event(s) in StepId=7.0", 1),
        ("srun: error: node1: task 0: Out Of Memory", 1),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 0),
        ("srun: error: node1: task 0: Exited with exit code 1", 0),
    ],
)
def test_a_step_that_is_killed_for_memory_makes_a_failed_job(lab, tmp_path, text, kills):
    """What computes is a step: srun turns its kill into an exit code of 1."""
    failed = job("7")
    failed.aux["slurm_logfile"] = tmp_path / "7.log"
    failed.aux["slurm_logfile"].write_text(f"before\n{text}\nafter\n")
    lab.script("squeue", "echo '7|FAILED'")
    assert lab.look(failed) == [] and lab.executor.failed == ["7"]
    assert lab.kills["run7"] == kills


def test_a_forgotten_job_whose_old_picture_is_there_has_not_drawn_it(lab, tmp_path):
    picture = tmp_path / "radii.png"
    picture.write_text("old")
    jobs = job("1", picture), job("2", picture)
    for each in jobs:
        lab.patience.run(each.job)
    lab.script("squeue", "true")
    lab.look(jobs[0])
    lab.time = patience.LOST_SECONDS + 1
    assert lab.look(jobs[0]) == [] and lab.executor.failed == ["1"]

    lab.look(jobs[1])
    os.utime(picture, ns=(5, 5))
    lab.time *= 3
    assert lab.look(jobs[1]) == [] and lab.executor.done == ["2"]


def test_another_executor_stays_as_it_is():
    local = SimpleNamespace(check_active_jobs=nullcontext)
    patience.attach(local, Counter(), Counter())
    assert local.check_active_jobs is nullcontext
