"""What happens around a workflow: one master a folder, jobs of a dead one, what failed and why."""

import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from pipeline.errors import UserError
from pipeline.lease import hold
from pipeline.plan import frozen

JOB_PREFIX = "robust_"  # slurm-jobname-prefix in slurm/config.yaml
TAIL = 12  # lines of a failed job's log
PATIENCE = 300  # seconds for cancelled jobs to save and end
_HELD = ExitStack()


def begin(fingerprint: str) -> None:
    """Become the one master of this folder, end a dead master's jobs, freeze plan and code.

    The lease ends with the process. Raises UserError when another master lives.
    """
    _HELD.enter_context(hold("master", patient=False))
    cancel_orphans()
    frozen.freeze(fingerprint)


def leave_warnings_to_commands() -> None:
    """Let SLURM's warning before a time limit pass by Snakemake, which it would kill.

    The signal goes to every process of a job; the command that computes takes it (signals.py).
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def end() -> None:
    """Let another master begin; a kill does the same, after a minute on other machines."""
    _HELD.close()


def cancel_orphans() -> None:
    """Cancel SLURM jobs that a killed master left in this folder; they save their state first."""
    jobs = _orphans()
    if not jobs:
        return
    print(f"cancelling {len(jobs)} SLURM jobs of a master that is gone: {' '.join(jobs)}")
    _slurm("scancel", *jobs)
    started = time.monotonic()
    while left := _orphans():
        if time.monotonic() - started > PATIENCE:
            raise UserError(
                f"SLURM jobs {' '.join(left)} do not end; see `squeue --me`, then run again"
            )
        time.sleep(1)


def _orphans() -> list[str]:
    if shutil.which("squeue") is None:
        return []
    lines = _slurm("squeue", "--me", "--noheader", "--format=%i|%j|%Z").splitlines()
    here = Path.cwd().resolve()
    found = [line.strip().split("|", 2) for line in lines if line.count("|") >= 2]
    return [id for id, name, folder in found if name.startswith(JOB_PREFIX) and _is(here, folder)]


def _is(here: Path, folder: str) -> bool:
    return Path(folder).resolve() == here


def _slurm(*command: str) -> str:
    """Output of a SLURM command; nothing where SLURM does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


# ---- failures


def failures(text: str) -> list[tuple[str, str, str]]:
    """(rule, log, command) of each failed job in Snakemake's own log, the last time it failed."""
    found = {}
    for block in re.split(r"^(?=Error in (?:rule|group) )", text, flags=re.MULTILINE)[1:]:
        rule = block.split()[3].rstrip(",:")
        log = re.search(r"^    log: (\S+?),? ", block, re.MULTILINE)
        command = re.search(r"^        (?:exec )?(python -m .*?) > ", block, re.MULTILINE)
        if log and command:
            found[log[1]] = (rule, log[1], command[1])
    return list(found.values())


def explain(snakemake_log: str) -> None:
    """Print, for each job that failed in the end, its log's last lines and how to run it."""
    for rule, log, command in failures(Path(snakemake_log).read_text(errors="replace")):
        path = Path(log)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        print(f"\n{rule} failed; the end of {log}:", file=sys.stderr)
        print("\n".join(f"    {line}" for line in lines[-TAIL:]), file=sys.stderr)
        print(f"  by hand, in this folder: {command}", file=sys.stderr)
