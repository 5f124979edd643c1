"""Delete from this folder what a merge gives up: nothing that no commit holds, nothing linked."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.share.pools import Entries
from pipeline.store.files import checksum

RUNS, SNAPSHOTS, RAW = Path("results/runs"), Path("results/snapshots"), Path("data/raw")


def discard(paths: Iterable[Path], listed: Entries) -> None:
    """Delete artifacts from this folder; their commits still hold them. No link is followed.

    Of raw files only those that their pool has `listed`, if they are as they were.
    """
    for path in paths:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            path.with_suffix(".time.json").unlink(missing_ok=True)
        elif path.parent == RAW:  # beside them lie a user's own, in no commit
            _discard_raw({k: v for k, v in listed.items() if k[:1] == path.parts[2:]})
        else:
            shutil.rmtree(path)
        if path.parent == RUNS:  # nobody may take a lost run's epochs for those of the one that won
            shutil.rmtree(SNAPSHOTS / path.name, ignore_errors=True)


def _discard_raw(listed: Entries) -> None:
    for key, md5 in listed.items():
        file = RAW.joinpath(*key)
        is_linked = any(part.is_symlink() for part in file.parents)  # of a link only that goes
        if is_linked or not file.is_file() or checksum(file, "md5") != md5:
            continue
        file.unlink()
        with suppress(OSError):  # not empty
            for folder in file.parents[: len(key) - 1]:
                folder.rmdir()


def check_inside(paths: Iterable[Path]) -> None:
    """Raise UserError when a folder on the way to one of these is a link to elsewhere."""
    links = {p for path in paths for p in (*path.parents, SNAPSHOTS / path.name) if p.is_symlink()}
    for link in sorted(links):
        raise UserError(f"{link}: is a link, and a merge deletes nothing behind one; replace it")
