"""The head of a job's log: which command, where, on what, with which versions; and its end."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.plan import frozen

DONE = "# done"  # last line of a job that ended well
PACKAGES = ("torch", "numpy", "snakemake")


def head() -> str:
    """Lines for the top of a log."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = shlex.join(["python", "-m", spec.name if spec else "?", *sys.argv[1:]])
    env = os.environ
    job = env.get("SLURM_JOB_ID", "none")
    copy = env.get(frozen.VARIABLE, "none, the files as they are")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return "\n".join(
        [
            f"# {command}",
            f"# {now}, host {platform.node()}, process {os.getpid()}",
            f"# SLURM job {job}, node {env.get('SLURMD_NODENAME', platform.node())}, "
            f"GPU {env.get('CUDA_VISIBLE_DEVICES') or 'none assigned'}",
            f"# python {platform.python_version()}, {', '.join(map(_versioned, PACKAGES))}",
            f"# copy of plan and code: {copy}",
        ]
    )


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} missing"


def ended_well(log: Path) -> bool:
    """Whether the job behind a log said so."""
    return log.read_text(errors="replace").rstrip().endswith(DONE)
