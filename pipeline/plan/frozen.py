"""A copy of the plan and the code that a workflow started with, for the jobs it starts later.

A cluster's jobs begin hours after they were planned, and read the plan again. They run from the
copy, so the plan and the code may be edited meanwhile: the edit counts for the next call.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.params.reader import pages
from pipeline.plan.params.schema import ROOT

VARIABLE = "ROBUST_FROZEN"  # folder of the copy, in the environment of jobs
STORE = Path("work/frozen")
KEPT_DAYS = 60  # longer than any queue and time limit
PATTERNS = (
    "pipeline/**/*.py",
    "pipeline/**/*.smk",
    "pipeline/**/*.json",
    "data/reported/*.csv",
)


def base() -> Path:
    """Folder of the plan that counts for this process: the copy's, or the one it runs in."""
    return Path(os.environ.get(VARIABLE, ""))


def params_path() -> Path:
    """The params file that counts for this process."""
    return base() / "params.yaml"


def _sources() -> Iterator[tuple[str, Path]]:
    for path in [params_path(), *pages(params_path())]:
        yield path.relative_to(base()).as_posix(), path
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix(), path


def fingerprint() -> str:
    """What the copy would be called: a hash of everything it holds."""
    whole = hashlib.sha256()
    for name, path in _sources():
        content = path.read_bytes()
        whole.update(f"{name} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()[:16]


def freeze(expected: str) -> Path:
    """Make the copy and point this process's children at it.

    Raises UserError when files changed since `expected` was taken.
    """
    target = (STORE / expected).resolve()
    if not target.is_dir():
        part = target.with_name(f".{target.name}.{os.getpid()}")
        for name, path in _sources():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
        if fingerprint() != expected:
            shutil.rmtree(part)
            raise UserError("the plan or pipeline/ changed while starting; run it again")
        with suppress(OSError):  # another process made the same copy
            part.rename(target)
        shutil.rmtree(part, ignore_errors=True)
    os.utime(target)
    _sweep()
    os.environ[VARIABLE] = str(target)
    os.environ["PYTHONSAFEPATH"] = "1"  # `python -m` does not look into the folder it runs in
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(target), *([before] if before else [])])
    return target


def _sweep() -> None:
    for folder in STORE.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > KEPT_DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)


def discard(work: Path) -> None:
    """Remove an artifact's resume state, unless a workflow may delete the artifact yet.

    Snakemake removes a job's outputs before it starts it; of two masters in a row, the second may
    so start a job that the first one's has just finished. It then goes on from the last epoch.
    """
    if VARIABLE not in os.environ:
        shutil.rmtree(work, ignore_errors=True)
