"""How every command starts and ends: the head of a job's log, one line for a user's error."""

import io
import os
import platform
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import EXIT_INTERRUPTED, Interrupted, UserError
from pipeline.job.home import settle
from pipeline.plan import frozen

DONE = "# done"  # last line of a job that ended well
STOPPED = "stopped: "  # begins the last line of one that saved and stopped
EXIT_CTRL_C = 130  # what a shell says of a command that the signal ends
EXIT_CLOSED_PIPE = 141
TRAINED = "a smaller `micro_batch` of its recipe (which is another training)"
FULL = {  # what makes a job hold less of a GPU, by command
    "train": f"`runs_per_gpu: 1` of its arch, `graphs: none` of resources.train, or {TRAINED}",
    "average": TRAINED,
    "evaluate": "a smaller `batch` of resources.evaluate",
    "transfer": "a smaller `batch` of resources.evaluate",
}
PACKAGES = ("torch", "numpy", "snakemake")


def _find_module() -> str:
    """The module that was begun with `python -m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return str(spec.name) if spec else "?"


def head() -> str:
    """Lines for the top of a log."""
    command = shlex.join(["python", "-m", _find_module(), *sys.argv[1:]])
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


def was_stopped(log: Path, job: str) -> bool:
    """Whether a SLURM job, the writer of a log, saved and stopped as a signal asked."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return False

    is_its = any(line.startswith(f"# SLURM job {job}, ") for line in lines)
    return is_its and lines[-1].startswith(STOPPED)


def report(main: Callable[[list[str] | None], None], *, is_job: bool = True) -> None:
    """Run a command's main; a user's error becomes one line on stderr and exit code 1.

    What a job prints in a workflow is its log, with a head and an end; a command that is no job
    (`is_job`) prints its answer alone.
    """
    settle()
    in_workflow = is_job and "ROBUST_FROZEN" in os.environ
    if in_workflow:
        print(head(), file=sys.stderr, flush=True)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without ± is no reason to fail
        sys.stdout.reconfigure(errors="replace")

    try:
        main(None)
        if in_workflow:
            print(DONE)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        print(f"{STOPPED}{stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(EXIT_CTRL_C)
    except BrokenPipeError:  # `| head` has read enough; what is left must not be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CLOSED_PIPE)
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {_describe(error)}")


def _describe(error: OSError | RuntimeError) -> str:
    """What the machine lacked; raises what is a fault of the program."""
    if isinstance(error, OSError):  # full disk, read-only folder, missing file
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    if type(error).__name__ != "OutOfMemoryError":  # torch's, which not every command loads
        raise error
    remedy = FULL.get(_find_module().rpartition(".")[2])
    ask = f", or give params.yaml {remedy}" if remedy else ""
    return f"the GPU's memory is full: end what else computes on it{ask}"
