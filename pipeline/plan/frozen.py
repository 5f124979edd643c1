"""A copy of the plan and the code that a workflow started with, for the jobs it starts later.

A cluster's jobs begin hours after they were planned, and read the plan again. They run from the
copy, so the plan and the code may be edited meanwhile: the edit counts for the next call.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.params.pages import pages
from pipeline.plan.params.schema import ROOT

VARIABLE = "ROBUST_FROZEN"  # folder of the copy, in the environment of jobs
STORE = Path("work/frozen")
KEPT_DAYS = 60  # longer than any queue and time limit
PATTERNS = (
    "pipeline/**/*.py",
    "pipeline/**/*.smk",
    "pipeline/**/*.json",
    "pipeline/**/*.j2",
    "data/reported/*.csv",
    "data/cuts.csv",
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
            name = path.relative_to(ROOT)
            if not any(part.startswith(".") for part in name.parts):  # an editor's leftover
                yield name.as_posix(), path


def fingerprint() -> str:
    """What the copy would be called: a hash of everything it holds."""
    return _hash(_sources())


def _is_whole(copy: Path) -> bool:
    """Whether a copy is what its name says: scratch folders are purged, power is cut."""
    try:
        return _hash((name, copy / name) for name, _ in _sources()) == copy.name
    except OSError:
        return False


def _hash(files: Iterable[tuple[str, Path]]) -> str:
    whole = hashlib.sha256()
    for name, path in files:
        content = path.read_bytes()
        # With the length, so that no two lists of files run into the same bytes.
        whole.update(f"{name} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()[:16]


def freeze(expected: str) -> Path:
    """Make the copy, again where it is not what its name says, and point children at it.

    Raises UserError when files changed since `expected` was taken.
    """
    target = (STORE / expected).resolve()
    if not _is_whole(target):
        # Copied beside and renamed when whole: a kill leaves no half of a copy under its name.
        part = target.with_name(f".{target.name}.{os.getpid()}")
        for name, path in _sources():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)

        # After copying: a file that was saved meanwhile may be in the copy in either form.
        if fingerprint() != expected:
            shutil.rmtree(part)
            raise UserError("the plan or pipeline/ changed while starting; run it again")

        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)

    # Its time says when it was last used, which `_sweep` goes by.
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
