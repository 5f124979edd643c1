"""sha256 of files, hashed again only when size, time or number changed, as DVC does.

Who makes an artifact writes its sums beside it (`write_together`): what nobody has recorded yet
is compared with them, what is recorded with the manifest.
"""

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.files import Content, sha256_of, write_atomic
from pipeline.store.lease import check_held
from pipeline.store.names import is_sha256
from pipeline.store.scratch import read_memo, write_scratch

MEMO = Path("work/recorded.sums")
WITHIN = {"runs": "run.time.json", "data": "prepare.time.json"}


def sum_of(path: Path) -> str:
    """sha256 of a file, from memory while it is the same file; raises FileNotFoundError."""
    stat = path.stat()
    # A file that was replaced has another number (inode), even with its old time and size.
    now, key = [stat.st_size, stat.st_mtime_ns, stat.st_ino], str(path.absolute())
    seen = _memo().get(key)
    if not (isinstance(seen, list) and len(seen) == 2 and seen[0] == now):
        seen = _memo()[key] = [now, sha256_of(path)]
    return str(seen[1])


@cache
def _memo() -> dict[str, Any]:
    """What `remember` wrote; nothing where it is missing or damaged."""
    return read_memo(MEMO)


def remember() -> None:
    """Keep the sums of files that are still there for the next process."""
    # Sums of files that went away would pile up for ever.
    kept = {name: seen for name, seen in _memo().items() if Path(name).exists()}
    write_scratch(MEMO, json.dumps(kept, sort_keys=True).encode())


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that only helps, such as times: empty where it is missing or damaged."""
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def as_seconds(value: object) -> float | None:
    """A time that such a file states; None where it is no number of seconds."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value)


def beside(path: Path) -> Path:
    """Where times and sums of a file's artifact lie."""
    if path.suffix == ".npz" or path.parent.name == "transfer":
        return path.with_suffix(".time.json")
    is_run = path.parent.parent.name == "runs"
    return path.with_name(WITHIN["runs" if is_run else "data"])


def write_together(
    files: Mapping[Path, Content], about: Mapping[str, Any], kept: Iterable[Path] = ()
) -> None:
    """Write an artifact's files in this order, and `about` with all sums before the last one.

    The last file says that the artifact is whole; who lost the lease meanwhile never writes it.
    `kept` are files of the artifact that stay as they are.
    """
    *first, last = files
    for path in first:
        write_atomic(path, files[path])
    sums = {path.name: sha256_of(path) for path in (*kept, *first)}

    def seal(written: Path) -> None:
        # Here, just before the name is given: whoever lost the lease must not seal the artifact.
        check_held()
        stated = {**about, "sha256": {**sums, last.name: sha256_of(written)}}
        write_atomic(beside(last), (json.dumps(stated, indent=1, sort_keys=True) + "\n").encode())

    write_atomic(last, files[last], seal)


def check_stated(path: Path) -> None:
    """Raise UserError when a file is not what the job that made it says beside it."""
    stated = read_mapping(beside(path)).get("sha256")
    expected = stated.get(path.name) if isinstance(stated, dict) else None
    if isinstance(expected, str) and is_sha256(expected) and sum_of(path) != expected:
        whole = path if path.suffix == ".npz" or path.parent.name == "transfer" else path.parent
        raise UserError(
            f"{path}: is not what its job wrote (its sum in {beside(path).name} differs); delete "
            f"{whole} and run again"
        )
