"""SIGKILL at random moments of a whole tiny plan: the results are an undisturbed run's bytes."""

import base64
import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from projects import Project, job_params

pytestmark = pytest.mark.crash
POINTS = int(os.environ.get("CRASH_POINTS", "6"))  # `make crash` asks for 50
SEED = int(os.environ.get("CRASH_SEED", "0"))
LEFTOVER = re.compile(r"\.[^/]+\.[0-9a-f]{8}\.tmp")  # of a killed writer, swept after a day
ROWS = ["pgd_at", "meat", "last_bn"]
PLAN = {"epochs": 6, "train_images": 120}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("whole"), plan(), prepared=False)
    started = time.monotonic()
    done = project.snakemake("-q")
    assert done.returncode == 0, done.stdout
    return project, project.results(), time.monotonic() - started


def plan():
    return job_params(ROWS, members=2, suites=("unified", "core"), **PLAN)


def family(pid):
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
    except OSError:
        found = []
    return [pid, *(p for child in found for p in family(child))]


def strike(project, chance, longest):
    """Start the workflow and, after a random while, kill all of it, its master or a command."""
    master = project.start("snakemake", "-c2", "results/table1.csv", "-q")
    after = chance.uniform(1.0, longest)
    with suppress(subprocess.TimeoutExpired):
        said = master.communicate(timeout=after)[0]
        assert master.returncode == 0, f"died by itself\n{said}"
        return "finished before"
    members = family(master.pid)
    target = chance.choice(["everything", "master", "command"])
    killed = {"everything": members, "master": members[:1], "command": members[-1:]}[target]
    for pid in killed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if target == "command":
        master.communicate(timeout=200)
    master.wait()
    return f"{target} after {after:.1f} s"


def find_results(project):
    return {
        path: digest
        for path, digest in project.results().items()
        if not LEFTOVER.fullmatch(Path(path).name)
    }


def test_kills_anywhere_in_the_plan_change_no_byte(undisturbed, tmp_path):
    _, expected, seconds = undisturbed
    chance = random.Random(SEED)
    project = Project(tmp_path, plan(), prepared=False)
    struck = []
    while sum("after" in s for s in struck) < POINTS:
        struck.append(strike(project, chance, max(4, seconds / 4)))
        done = project.folder / "results" / "table1.csv"
        if done.exists():  # all is built: begin again, so that each point strikes some work
            assert find_results(project) == expected, struck
            for folder in ("results", "work", "data/digits", "data/raw"):
                project.remove(folder)
    last = project.snakemake("-q")
    print("\n".join(struck))
    assert last.returncode == 0, last.stdout[-3000:]
    assert find_results(project) == expected, struck
    left = [
        p for kind in ("runs", "records") for p in (project.folder / "work" / kind).rglob("*.*")
    ]
    assert not left, "resume states were left behind"
    again = project.snakemake("-n")
    assert "Nothing to be done" in again.stdout


def test_a_mark_of_incompleteness_hides_nothing_that_is_missing_behind_it(undisturbed):
    """Snakemake 9.27, told to run marked jobs again, runs only those and reports success."""
    project, expected, _ = undisturbed
    (run, *_), _ = project.plan()
    marked = f"results/runs/{run}/weights.safetensors"
    name = base64.b64encode(marked.encode(), altchars=b"-_").decode()
    (project.folder / ".snakemake" / "incomplete" / name).write_text("{}")
    project.remove("results/records")
    (project.folder / "results" / "table1.csv").unlink()
    told = project.snakemake("--rerun-incomplete")
    if not (project.folder / "results" / "table1.csv").exists():
        assert told.returncode == 1 and "was not made, though no job failed" in told.stdout
    done = project.snakemake("-q")
    assert done.returncode == 0, done.stdout
    assert project.results() == expected
