"""What happens around a workflow: one master a folder, jobs of a dead one, what failed and why."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pipeline.errors import UserError
from pipeline.job import warm
from pipeline.job.logs import find_stop
from pipeline.job.report import ended_well
from pipeline.plan import Plan, frozen
from pipeline.store.files import storing, write_atomic
from pipeline.store.lease import hold

WRITTEN = ("results", "data", "logs", "work")
# slurm-jobname-prefix in slurm/config.yaml and the executor's uuid: no job of a user's own
JOB_NAME = re.compile("robust_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TAIL = 12  # lines of a failed job's log
PATIENCE = 300  # seconds for cancelled jobs to save and end
SHOWN = 5  # failed jobs
SNAKEMAKES_LIMIT = (100, 1)  # starts, seconds
ASKED = Path("work/asked.txt")  # what the living master, or the last one, was asked for
_HELD = ExitStack()
_STARTED: list[int] = []  # as the file system tells time


def begin(plan: Plan, fingerprint: str) -> None:
    """Become the one master of this folder, end a dead master's jobs, freeze plan and code.

    The lease ends with the process. Raises UserError when another master lives, or when a folder
    cannot be written.
    """
    for folder in WRITTEN:
        _check_writable(Path(folder))

    _HELD.enter_context(hold("master", patient=False))
    cancel_orphans()

    copy = frozen.freeze(fingerprint)
    plan.lay(copy)
    _STARTED.append(copy.stat().st_mtime_ns)


def _check_writable(folder: Path) -> None:
    """Raise UserError where nothing can be written: Snakemake itself ends in a trace."""
    with storing(folder):
        folder.mkdir(exist_ok=True)
        with TemporaryFile(dir=folder):  # it has no name: a master killed here leaves nothing
            pass


def check_folder() -> None:
    """Raise UserError where Snakemake ends in a trace: its own notes here are another user's, or
    the folder's name cannot stand in a search path."""
    here = Path.cwd()
    if os.pathsep in str(here):
        raise UserError(
            f"{here}: a path with {os.pathsep!r} splits where Python looks for the pipeline; "
            "move or rename the folder"
        )
    notes = Path(".snakemake")
    for folder in (notes, *sorted(notes.glob("*/"))):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(
                f"{folder}: another user alone may write there; let them run "
                f"`chmod -R g+w {notes}`, and all of a group work with umask 002"
            )


def leave_warnings_to_commands() -> None:
    """Let SLURM's warning before a time limit pass by Snakemake, which it would kill.

    The signal goes to every process of a job; the command that computes takes it (signals.py).
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def look_once_a_job(scheduler: Any, asked: Any) -> None:
    """Lift Snakemake's limit on starts, 100 a second unless a command or profile says otherwise.

    Each look at the ready jobs leaves a timer that looks again a second later, for ever: after 150
    jobs that is 150 looks a second, each at every ready job, and a third of a core (9.27).
    """
    if asked and (asked.max_jobs, asked.timespan) == SNAKEMAKES_LIMIT:
        scheduler.job_rate_limiter = None


def load_once(jobs: int) -> None:
    """Let the jobs of a workflow that runs them on this machine start without their imports."""
    _HELD.enter_context(warm.server(jobs))


def end() -> None:
    """Let another master begin; a kill does the same, after a minute on other machines."""
    _HELD.close()


def cancel_orphans() -> None:
    """Cancel SLURM jobs that a killed master left in this folder; they save their state first."""
    jobs = _list_orphans()
    if not jobs:
        return

    print(f"cancelling {len(jobs)} SLURM jobs of a master that is gone: {' '.join(jobs)}")
    _ask_slurm("scancel", *jobs)
    started = time.monotonic()
    while left := _list_orphans():
        if time.monotonic() - started > PATIENCE:
            raise UserError(
                f"SLURM jobs {' '.join(left)} do not end; see `squeue --me`, then run again"
            )
        time.sleep(1)


def _list_orphans() -> list[str]:
    if shutil.which("squeue") is None:
        return []
    lines = _ask_slurm("squeue", "--me", "--noheader", "--format=%i|%j|%Z").splitlines()
    here = Path.cwd().resolve()
    jobs = [line.strip().split("|", 2) for line in lines if line.count("|") >= 2]
    # Several folders of one user may have masters: a job belongs to the one that it runs in.
    return [
        id for id, name, folder in jobs if JOB_NAME.fullmatch(name) and _is_folder(here, folder)
    ]


def _is_folder(here: Path, folder: str) -> bool:
    return Path(folder).resolve() == here


def _ask_slurm(*command: str) -> str:
    """Output of a SLURM command; nothing where SLURM does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def note_asked(asked: Iterable[Any]) -> None:
    """Write down what this workflow was asked for: `pipeline status` shows that and no more."""
    write_atomic(ASKED, "".join(f"{file}\n" for file in _list_asked(asked)).encode())


def check_made(asked: Iterable[Any]) -> None:
    """Raise UserError when a workflow that calls itself done has not made what was asked for."""
    missing = [file for file in _list_asked(asked) if not Path(file).exists()]
    if missing:
        raise UserError(f"{missing[0]}: was not made, though no job failed; run the same again")


def _list_asked(jobs: Iterable[Any]) -> list[str]:
    """Files of Snakemake's target jobs, what `--until`, `--omit-from` and `--batch` left of them;
    one without outputs, such as `all`, asks for its inputs."""
    return sorted(str(file) for job in jobs for file in job.output or job.input)


def explain() -> None:
    """Print the end of the log of each job that began here and failed, and its command.

    Jobs that were tried again and ended well are not among them: a job has one log. Nor are those
    that saved and stopped, as after Ctrl-C.
    """
    logs = [path for path in sorted(Path("logs").rglob("*.log")) if _is_new(path)]
    failed = [path for path in logs if not ended_well(path) and not find_stop(path)]
    for path in failed[:SHOWN]:
        command, tail = _read_ends(path)
        print(f"\nfailed; the end of {path}:\n{tail}", file=sys.stderr)
        if command:
            print(f"  by hand, in this folder: {command}", file=sys.stderr)
    if failed[SHOWN:]:
        print(f"\nand {len(failed) - SHOWN} more:", *failed[SHOWN:], file=sys.stderr)


def _is_new(path: Path) -> bool:
    return path.stat().st_mtime_ns >= _STARTED[-1]


def _read_ends(path: Path) -> tuple[str, str]:
    """The command that a log's head names, if its job came so far, and the last lines."""
    lines = path.read_text(errors="replace").splitlines()
    commands = (line.removeprefix("# ") for line in lines if line.startswith("# python -m "))
    tail = "\n".join(f"    {line}" for line in lines[-TAIL:] or ["nothing was written"])
    return next(commands, ""), tail
