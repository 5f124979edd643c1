"""What runs, what failed, what is left: `python -m pipeline status [TARGET ...] [--watch]`.

What runs is told by its lease, never by a log that an earlier try left; how far it is, by the last
line of its log. Time left is estimated work, not a count of jobs.
"""

import argparse
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from os.path import exists
from pathlib import Path

from pipeline.cluster.master import ASKED
from pipeline.job.logs import find_error, find_log, find_progress, find_steps, lease_of
from pipeline.job.report import report
from pipeline.plan import Artifact, Dataset, Figure, Plan, Table, load_plan
from pipeline.plan.estimate import describe
from pipeline.plan.speeds import measure
from pipeline.plan.state import HAVE, NEED, State, states
from pipeline.store.lease import list_held

UNLEASED = ("download", "prepare", "tabulate", "plot")  # minutes at most: no lease tells who runs
FAILURES = 10  # lines


@dataclass(frozen=True)
class Job:
    """A job that is not done: what it makes, and where it writes what it says."""

    stage: str
    id: str
    log: Path


def screen(plan: Plan, targets: list[str]) -> str:
    """The state of these tables and figures; of none, of what the workflow that runs here was
    asked for, and of all of the scale where none runs."""
    held = list_held()
    names = targets or ("master" in held and _list_asked(plan))
    names = names or [*plan.entries.section("tables"), *plan.figures]
    asked = [plan.target(name) for name in names]
    listed = states(plan, asked, measure(plan, asked))

    running = [s for s in listed if lease_of(s.artifact) in held]
    needed = [s for s in listed if s.status == NEED]
    idle = _list_jobs([s.artifact for s in needed if s not in running], asked)

    lines = [_describe_work(listed, running), ""]
    lines += [
        f"running  {s.stage} {s.id}: {_describe_progress(s)} ({held[lease_of(s.artifact)]})"
        for s in running
    ]
    errors = {job: _find_failure(job, is_run="master" in held) for job in idle}
    failed = [(job, said) for job, said in errors.items() if said]
    lines += [f"failed   {job.stage} {job.id}: {said}" for job, said in failed[:FAILURES]]
    lines += [f"         and {len(failed) - FAILURES} more"] if len(failed) > FAILURES else []

    waiting = Counter(job.stage for job in idle if not errors[job])
    lines += [f"waiting  {count} x {stage}" for stage, count in waiting.items()]
    return "\n".join([*lines, *queue()])


def _list_asked(plan: Plan) -> list[str]:
    """The tables and figures among the files that a workflow was asked for."""
    files = ASKED.read_text().splitlines() if ASKED.exists() else []
    known = {str(target.path): target.name for target in plan.targets.values()}
    return [known[file] for file in files if file in known]


def _describe_work(listed: list[State], running: list[State]) -> str:
    """One line: share of the estimated work that is done, and what is left of it."""
    asked = [s for s in listed if s.status in (HAVE, NEED)]
    if any(s.seconds is None for s in asked):
        count = sum(s.status == HAVE for s in asked)
        return f"{count} of {len(asked)} artifacts are here; the work left is {describe(None)}"

    total = sum(s.seconds or 0 for s in asked)
    left = sum((s.seconds or 0) for s in asked if s.status == NEED)
    # What runs is done in part: as far as the last line of its log says.
    left -= sum(_measure_share(s) * (s.seconds or 0) for s in running if s.status == NEED)
    share = 100 * (1 - left / total) if total else 100
    return f"{share:.0f} % of the estimated work is done; left, on one process: {describe(left)}"


def _list_jobs(needed: list[Artifact], asked: list[Table | Figure]) -> list[Job]:
    """What makes these artifacts, what fetches their files, and what is then drawn of them."""
    raw = [a.raw for a in needed if isinstance(a, Dataset) and not all(map(exists, a.sources))]
    jobs = [Job("download", r.name, Path("logs/download") / f"{r.name}.log") for r in raw]
    drawn = [t for t in asked if t.stage in UNLEASED and not t.is_here()]
    return jobs + [Job(a.stage, a.id, find_log(a)) for a in (*needed, *drawn)]


def _find_failure(job: Job, is_run: bool) -> str:
    """Why a job ended; of one that no lease tells of, while a workflow runs, only what it says."""
    said = find_error(job.log)
    return "" if is_run and job.stage in UNLEASED and "error" not in said.lower() else said


def _describe_progress(state: State) -> str:
    steps = find_steps(find_progress(state.artifact))
    return "{done}/{total} {text}".format(**steps[-1].groupdict()).rstrip() if steps else "begins"


def _measure_share(state: State) -> float:
    steps = find_steps(find_progress(state.artifact))
    return int(steps[-1]["done"]) / max(int(steps[-1]["total"]), 1) if steps else 0.0


def queue() -> list[str]:
    """What SLURM holds for this user, by state; nothing where there is no SLURM."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--me", "--noheader", "--format=%T %r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except subprocess.TimeoutExpired:
        return ["", "SLURM does not answer: no word for 30 s"]
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no answer"])[-1]
        return ["", f"SLURM does not answer: {said}"]

    return [
        "",
        *(f"SLURM    {n} x {what}" for what, n in Counter(done.stdout.splitlines()).items()),
    ]


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline status", description=__doc__)
    parser.add_argument(
        "targets",
        nargs="*",
        help="tables and figures; if none, those of the workflow that runs, else all of the scale",
    )
    parser.add_argument("--watch", action="store_true", help="again every few seconds")
    args = parser.parse_args(argv)

    plan = load_plan()
    while args.watch:
        text = screen(plan, args.targets)
        print(f"\033[H\033[2J{text}", flush=True)
        time.sleep(5)
    print(screen(plan, args.targets))


if __name__ == "__main__":
    report(main)
