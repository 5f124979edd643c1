"""Against a real SLURM on this machine: the user's literal command, and everything that dies.

Bytes are the judge: whatever happened on the way, the results are an undisturbed run's.
"""

import json
import os
import re
import shutil
import signal
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest
from projects import ROOT, Project, job_params
from slurm_lab import Slurm, unavailable

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "available"),
]
LITERAL = ("snakemake", "--profile", "slurm", "results/table1.csv")
FAST = ("--slurm-init-seconds-before-status-checks", "1")
PLAN = {"device": "auto", "epochs": 16, "train_images": 600}
MEMBERS = 4


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm") / "lab", nodes=2, cpus=4, gpus=3) as lab:
        yield lab


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    project = Project(
        tmp_path_factory.mktemp("undisturbed"), job_params(["pgd_at"], MEMBERS, **PLAN)
    )
    done = project.snakemake("-q")
    assert done.returncode == 0, done.stdout
    return project.results()


def wait(condition, seconds=120, what="it"):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)
    return found


def epochs(project, run):
    log = project.folder / "logs" / "train" / f"{run}.log"
    return log.read_text().count(" loss ") if log.exists() else 0


def holder(project, run):
    """The process that works on a run, as its lease names it."""
    leases = project.folder / "work" / "leases" / "runs" / run
    files = sorted((p for p in leases.glob("*") if p.name.isdecimal()), key=lambda p: int(p.name))
    found = json.loads(files[-1].read_text()) if files else None
    return found or {"job": None, "pid": None}


def workers(run):
    """Living processes that train a run, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:3] == [b"-m", b"pipeline.train"] and words[3:4] == [run.encode()]:
            found.append(int(path.parent.name))
    return found


def test_every_way_to_lose_a_job_costs_nothing(slurm, undisturbed, tmp_path):
    project = Project(tmp_path, job_params(["pgd_at"], MEMBERS, **PLAN), slurm.env)
    runs, _ = project.plan()
    with (tmp_path / "screen").open("w") as screen:
        master = project.start(*LITERAL, *FAST, stdout=screen)
        wait(lambda: all(epochs(project, r) >= 2 for r in runs), what="two epochs of every run")
        job = {r: holder(project, r)["job"] for r in runs}
        node = {id: where for id, _, _, where in slurm.jobs()}
        pids = [holder(project, r)["pid"] for r in runs]
        for pid in pids[2:]:  # not done before what strikes it; SLURM's warning wakes it up
            os.kill(pid, signal.SIGSTOP)
        os.kill(pids[0], signal.SIGKILL)  # as the OOM killer does
        slurm.call("scancel", job[runs[1]])
        limit = f"TimeLimit={minutes(slurm, job[runs[2]]) + 2}"  # the warning comes 120 s before
        slurm.call("scontrol", "update", f"jobid={job[runs[2]]}", limit)
        struck = {job[r] for r in runs[:3]}
        wait(lambda: struck.isdisjoint(id for id, *_ in slurm.jobs()), what="three jobs' ends")
        down = f"nodename={node[job[runs[3]]]}"
        slurm.call("scontrol", "update", down, "state=down", "reason=test")
        end = time.monotonic() + 300
        while master.poll() is None:
            if time.monotonic() > end:
                master.kill()
                pytest.fail(
                    slurm.call("squeue", "--states=all") + (tmp_path / "screen").read_text()
                )
            slurm.start_requeued()
            time.sleep(1)
    screen = (tmp_path / "screen").read_text()
    assert master.returncode == 0, screen[-3000:]
    assert project.results() == undisturbed
    records = slurm.call("scontrol", "show", "job", "--oneliner")
    assert "JobState=CANCELLED" in records and "JobState=FAILED" in records
    assert re.search(r"Restarts=[1-9]", records), "nothing was requeued"
    assert screen.count("Trying to restart job") >= 2 and screen.count("slice 1 of ") == 1
    for run in runs:
        log = (project.folder / "logs" / "train" / f"{run}.log").read_text()
        first = re.search(rf"^{run}: (\d+)/16 loss", log, re.MULTILINE)
        # without an epoch: it had come to its last one before it was struck
        assert first is None or int(first[1]) > 2, f"{run} began again instead of going on\n{log}"
        assert re.search(r"# SLURM job \d+, node node[12], GPU [0-2]$", log, re.MULTILINE)


def test_a_killed_master_is_followed_without_two_jobs_on_one_run(slurm, tmp_path):
    params = job_params(["pgd_at_single"], **{**PLAN, "epochs": 40})
    project = Project(tmp_path, params, slurm.env)
    (run,), (record,) = project.plan()
    first = project.start(*LITERAL, *FAST)
    wait(lambda: epochs(project, run) >= 2, what="two epochs")
    first.kill()
    first.wait()
    assert workers(run), "the SLURM job should outlive its master"
    before = holder(project, run)["job"]
    with (tmp_path / "screen").open("w") as screen:
        second = project.start(*LITERAL, stdout=screen)  # the literal command, nothing unlocked
        most = watch(
            project, run, second, lambda: holder(project, run)["job"] not in (None, before)
        )
        frozen = holder(project, run)["pid"]
        os.kill(frozen, signal.SIGSTOP)  # not done before SLURM takes its node away
        # a third master leaves; an edit is for the next call, even one that breaks everything
        third = project.run(*LITERAL)
        (project.folder / "params.yaml").write_text("scale: [")
        (project.folder / "pipeline" / "training" / "trainer.py").write_text(
            "raise SystemExit('edited')"
        )
        # preemption: SLURM's own requeue, which the executor must neither miss nor double
        (job,) = [(id, node) for id, _, comment, node in slurm.jobs() if run in comment]
        urgent = ("sbatch", "-p", "urgent", "-w", job[1], "-N1", "--gres=gpu:3", "-o", "/dev/null")
        slurm.call(*urgent, "--wrap", "sleep 1")
        wait(lambda: state(slurm, job[0]) != "RUNNING", what="the preemption")
        with suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)
        most = max(most, watch(project, run, second, lambda: False, slurm.start_requeued))
    text = (tmp_path / "screen").read_text()
    assert second.returncode == 0, text[-3000:]
    assert f"cancelling 1 SLURM jobs of a master that is gone: {before}" in text
    assert third.returncode == 1 and "error: master: process " in third.stdout
    assert "Restarts=1 " in slurm.call("scontrol", "show", "job", job[0], "--oneliner")
    # a preempted process may still be saving when its job starts anew: the new one must wait
    log = (project.folder / "logs" / "train" / f"{run}.log").read_text()
    assert most == 1 or (most == 2 and "works on it; waiting" in log), "two trained one run"
    done = project.folder / "results" / "records" / f"{record}.npz"
    assert done.exists() and (project.folder / "results" / "table1.csv").exists()


def minutes(slurm, job):
    """How long SLURM says that a job has run."""
    shown = slurm.call("scontrol", "show", "job", job, "--oneliner")
    hours, found = re.search(r"RunTime=(\d+):(\d+)", shown).groups()
    return 60 * int(hours) + int(found)


def state(slurm, job):
    """What SLURM says of one job."""
    found = re.search(r"JobState=(\w+)", slurm.call("scontrol", "show", "job", job, "--oneliner"))
    return found[1] if found else ""


def watch(project, run, master, until, meanwhile=lambda: None, seconds=300):
    """The most processes that trained `run` at one moment, until something holds or all ends."""
    most, end, turn, recent = 0, time.monotonic() + seconds, 0, deque([0] * 20, maxlen=20)
    while master.poll() is None and not until():
        if time.monotonic() > end:
            master.kill()
            pytest.fail((project.folder / "screen").read_text()[-3000:])
        recent.append(len(workers(run)))
        most = max(most, min(recent))  # one that has released needs a moment to end
        turn += 1
        if turn % 10 == 0:
            meanwhile()
        time.sleep(0.1)
    return most


def test_runs_of_a_small_net_share_a_gpu_side_by_side(slurm, undisturbed, tmp_path):
    params = job_params(["pgd_at"], 2, **PLAN)
    params["archs"]["tiny"]["runs_per_gpu"] = 2
    project = Project(tmp_path, params, slurm.env)
    runs, _ = project.plan()
    with (tmp_path / "screen").open("w") as screen:
        master = project.start(*LITERAL, *FAST, stdout=screen)
        wait(lambda: all(workers(r) for r in runs), what="all of a pack at once")
        (job,) = {id for id, *_ in slurm.jobs()}
        asked = slurm.call("scontrol", "show", "job", job, "--oneliner")
        wait(lambda: all((project.folder / "work/runs" / r / "state.pt").exists() for r in runs))
        slurm.call("scancel", "--signal=USR1", job)  # the group is tried again as one
        master.wait(300)
    screen = (tmp_path / "screen").read_text()
    assert master.returncode == 0, screen[-3000:]
    assert re.search(rf"NumCPUs={2} .*gres:gpu:1 ", asked), asked
    made = {path: sum for path, sum in project.results().items() if "/runs/" in path}
    assert len(made) == 8 and made.items() <= undisturbed.items()
    for run in runs:  # each still has its own log, whole
        log = (project.folder / "logs" / "train" / f"{run}.log").read_text()
        assert log.count(f"{run}: 16/16 loss") == 1 and log.count(f"{run}: 1/16 loss") <= 1
        assert not list((project.folder / "logs").rglob("*.pack"))


def test_a_run_that_fails_does_not_take_along_what_shares_its_job(slurm, undisturbed, tmp_path):
    params = job_params(["pgd_at"], 2, **PLAN)
    params["archs"]["tiny"]["runs_per_gpu"] = 2
    project = Project(tmp_path, params, slurm.env)
    (sick, healthy), _ = project.plan()
    folder = project.folder / "work/runs" / sick
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where it would save its state")

    done = project.run(*LITERAL, *FAST, "--retries", "0")
    assert done.returncode == 1, done.stdout[-3000:]
    made = {path: sum for path, sum in project.results().items() if "/runs/" in path}
    assert made and all(healthy in path for path in made), done.stdout[-3000:]
    assert len(made) == 4 and made.items() <= undisturbed.items()


def test_what_fails_is_explained_and_dvc_goes_the_same_way(slurm, tmp_path):
    params = job_params(["pgd_at_single"], device="auto")
    project = Project(tmp_path, params, slurm.env)
    (run,), _ = project.plan()
    images = next(project.folder.glob("data/digits/*/train.safetensors"))
    whole = images.read_bytes()
    images.write_bytes(whole[:-100])
    failed = project.run(*LITERAL, *FAST, "--retries", "0")
    assert failed.returncode == 1
    tail = failed.stdout.partition(f"failed; the end of logs/train/{run}.log:")[2]
    assert "error: data/digits/" in tail and "Traceback" not in tail, failed.stdout[-3000:]
    assert f"by hand, in this folder: python -m pipeline.train {run}\n" in tail
    images.write_bytes(whole)
    shutil.copy(ROOT / "dvc.yaml", project.folder)
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        project.run(*command, check=True)
    project.env["SNAKEMAKE_PROFILE"] = "slurm"
    done = project.run("dvc", "repro", "unified")
    assert done.returncode == 0, done.stdout[-3000:]
    log = (project.folder / "logs" / "train" / f"{run}.log").read_text()
    assert re.search(r"# SLURM job \d+, node node[12], GPU [0-2]$", log, re.MULTILINE)
    again = project.run("dvc", "repro", "unified")
    assert "didn't change" in again.stdout and "Running stage" not in again.stdout
