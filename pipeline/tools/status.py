"""What runs, what failed, what is left: `python -m pipeline status [TARGET ...] [--watch]`.

What runs is told by its lease, never by a log that an earlier try left; how far it is, by the last
line of its log. Time left is estimated work, not a count of jobs.
"""

import argparse
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

from pipeline.job.logs import find_error, find_steps
from pipeline.job.report import report
from pipeline.plan import Plan, load_plan
from pipeline.plan.estimate import describe
from pipeline.plan.speeds import measure
from pipeline.plan.state import HAVE, NEED, State, states
from pipeline.store.lease import list_held

ROOMS = {"evaluate": "records", "transfer": "transfer", "figure": "figures"}  # runs: all others
FAILURES = 10  # lines


def screen(plan: Plan, targets: list[str]) -> str:
    """The state of these tables and figures, of all of the scale when none is named."""
    names = targets or [*plan.entries.section("tables"), *plan.figures]
    asked = [plan.target(name) for name in names]
    listed = states(plan, asked, measure(plan, asked))
    held = list_held()

    running = [s for s in listed if lease_of(s) in held]
    needed = [s for s in listed if s.status == NEED]
    idle = [s for s in needed if s not in running]

    lines = [_describe_work(listed, running), ""]
    lines += [
        f"running  {s.stage} {s.id}: {_describe_progress(s)} ({held[lease_of(s)]})" for s in running
    ]
    errors = {s.id: find_error(_find_log(s)) for s in idle}
    failed = [(s, errors[s.id]) for s in idle if errors[s.id]]
    lines += [f"failed   {s.stage} {s.id}: {said}" for s, said in failed[:FAILURES]]
    lines += [f"         and {len(failed) - FAILURES} more"] if len(failed) > FAILURES else []

    waiting = Counter(s.stage for s in idle if not errors[s.id])
    lines += [f"waiting  {count} x {stage}" for stage, count in waiting.items()]
    return "\n".join([*lines, *queue()])


def lease_of(state: State) -> str:
    """The name of the lease that the job of an artifact holds."""
    id = state.id.rpartition("-from")[0] if state.stage == "trajectory" else state.id
    return f"{ROOMS.get(state.stage, 'runs')}/{id}"


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


def _find_log(state: State) -> Path:
    return Path("logs") / state.stage / f"{state.id}.log"


def _describe_progress(state: State) -> str:
    steps = find_steps(_find_log(state))
    return "{done}/{total} {text}".format(**steps[-1].groupdict()).rstrip() if steps else "begins"


def _measure_share(state: State) -> float:
    steps = find_steps(_find_log(state))
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
    parser.add_argument("targets", nargs="*", help="tables and figures; all of the scale if none")
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
