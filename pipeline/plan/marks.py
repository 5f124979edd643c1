"""The mark of a table or figure that is not up to date: an input that is newer than its files."""

import os
from pathlib import Path

from pipeline.plan.graph.targets import Target
from pipeline.plan.params.words import digest
from pipeline.store.files import storing


def name_mark(target: Target) -> Path:
    """The mark's path: today's digest, and what is there instead."""
    files = _list_files(target)
    state = f"-{digest({'seen': files})}" if files else ""
    return Path("work/plans") / f"{target.name}-{target.digest}{state}"


def renew(target: Target) -> None:
    """Make a target's mark, newer than its files; anew, since a colleague owns that of his file."""
    mark, newest = name_mark(target), max((ns for _, _, ns in _list_files(target)), default=0)
    with storing(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        mark.touch()
        if mark.stat().st_mtime_ns <= newest:  # the clock of another machine
            os.utime(mark, ns=(newest + 10**9, newest + 10**9))


def _list_files(target: Target) -> list[tuple[str, int, int]]:
    """Name, size and time of the files that a target has."""
    files = [(file.as_posix(), file.stat()) for file in target.outputs if file.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
