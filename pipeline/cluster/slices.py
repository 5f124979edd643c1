"""A time slice that ended is no failure: told from a crash by log and resume state.

A job asks for no more than a slice of time. Warned before its end it saves and says "stopped"; one
that SLURM cut off all the same has moved on if its resume state has.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.job.report import was_stopped

# What slurmstepd and srun write when a step is killed; a GPU's "CUDA out of memory" is another.
KILLED = re.compile("oom.kill event|: Out Of Memory$", re.MULTILINE)


def was_killed_for_memory(state: str, info: Any) -> bool:
    """Whether SLURM killed a job for its memory.

    What computes is a step inside the job: its kill makes srun, and so the job, end with 1, which
    SLURM calls FAILED. Only the job's log tells it from other failures.
    """
    log = info.aux.get("slurm_logfile")
    if state != "FAILED" or log is None or not Path(log).is_file():
        return state == "OUT_OF_MEMORY"
    return bool(KILLED.search(Path(log).read_text(errors="replace")))


def has_ended(state: str, id: str, job: Any, before: int) -> bool:
    """Whether SLURM's `state` of a job is the end of a slice; `before` is its `progress` then."""
    # A job that saved and stopped exits with 75, which SLURM calls a failure.
    if state == "FAILED":
        return any(was_stopped(Path(log), id) for one in singles(job) for log in one.log)
    return state == "TIMEOUT" and progress(job) > before


def singles(job: Any) -> list[Any]:
    """Snakemake's jobs in one of SLURM's."""
    return list(job.jobs) if job.is_group() else [job]


def key(job: Any) -> str:
    """What a job is about: the wildcards of its rule, or of all of a group's."""
    return ", ".join(sorted(key_of(one.wildcards_dict.values()) for one in singles(job)))


def key_of(wildcards: Iterable[Any]) -> str:
    """What a single job is about."""
    return "/".join(map(str, wildcards))


def progress(job: Any) -> int:
    """When the job last saved something, in the file system's nanoseconds; 0 where it has not."""
    return max(
        (time for one in singles(job) for time in _list_times(one.wildcards_dict)), default=0
    )


def _list_times(wildcards: dict[str, str]) -> Iterator[int]:
    folder = _find_folder(wildcards)
    for path in folder.rglob("*") if folder else ():
        with suppress(FileNotFoundError):  # a state is replaced as it is looked at
            yield path.stat().st_mtime_ns


def _find_folder(wildcards: dict[str, str]) -> Path | None:
    """Where the job of a run or a record saves; no other job saves anything."""
    if "run" in wildcards:
        return Path("work/runs") / wildcards["run"]
    if "suite" in wildcards:
        return Path("work/records") / wildcards["victim"] / wildcards["suite"]
    return None
