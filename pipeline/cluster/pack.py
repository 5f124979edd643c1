"""Runs side by side in one allocation: one small network does not fill a GPU.

Snakemake hands several jobs to SLURM as one (a group), but its executor works them off one after
the other. So the first of a pack to have its turn trains them all at once, each in a process of
its own with its own lease, state, log and outputs, which stay if another run fails.
When a job's turn comes Snakemake removes its outputs, and it writes them again from the state of
the last epoch. Killed or requeued, the pack goes on from the states.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

from pipeline.cluster.resources import PACK
from pipeline.errors import EXIT_INTERRUPTED, Interrupted, UserError
from pipeline.job.logs import find_pack_log
from pipeline.job.signals import StopRequest
from pipeline.plan import Plan, Run
from pipeline.store import checkpoint

POLL = 0.2  # seconds


def is_trained(run: Run) -> bool:
    """Whether the run is finished, or has a state behind its last epoch."""
    if run.is_here():
        return True
    try:
        state = checkpoint.load_state(run.state, run.id)
    except (UserError, OSError):
        return False  # its own training says what is wrong, and no other fails of it
    return state is not None and state["epoch"] > run.spec["recipe"]["epochs"]


def members() -> list[str]:
    """Ids of the runs in this job's pack; none where it is not in one."""
    return os.environ.get(PACK, "").split()


def train(plan: Plan, run: Run) -> None:
    """Train what is missing of this job's pack, side by side; nothing where it is not in one.

    A run that fails here fails again, and visibly, in its own job. Raises Interrupted when a
    signal stopped them, each after saving.
    """
    missing = [member for member in map(plan.run, members()) if not is_trained(member)]
    # The first of a pack to have its turn trains them all; the others then find nothing missing.
    if len(missing) > 1 and run in missing:
        with StopRequest() as stop:
            _wait([_start(member, run) for member in missing], stop)
        if stop.requested:
            raise Interrupted(f"{run.id}: saved, as were those beside it; run again to resume")

    _tell(run)


def _tell(run: Run) -> None:
    """Move to this job's log what the run printed while another job trained it."""
    path = find_pack_log(run.id)
    if path.exists():
        print(path.read_text(), end="", flush=True)
        path.unlink()


def _start(member: Run, leader: Run) -> "subprocess.Popen[Any]":
    command = [sys.executable, "-m", "pipeline.train", member.id, "--alone"]
    if member is leader:
        return subprocess.Popen(command)

    # Another's words go beside: its own job shows them when its turn comes.
    path = find_pack_log(member.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _wait(processes: "Iterable[subprocess.Popen[Any]]", stop: StopRequest) -> None:
    """Until all have ended; a signal to this process is theirs too."""
    living, has_told = list(processes), False
    while living:
        if stop.requested and not has_told:
            has_told = True
            for process in living:
                process.send_signal(signal.SIGUSR1)

        time.sleep(POLL)
        ended = [process for process in living if process.poll() is not None]
        if any(process.returncode == EXIT_INTERRUPTED for process in ended):
            stop.requested = True  # the signal came to them alone

        living = [process for process in living if process not in ended]
