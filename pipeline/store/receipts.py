"""The receipt in a table's or figure's .json: what its files were made from, and their sums.

It is written last, so that a target that was killed half-way is never taken for a whole one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.store import manifest
from pipeline.store.files import write_atomic
from pipeline.store.sums import sum_of

KEYS = {"plan", "scale", "files", "rests_on", "sha256"}


def write_target(path: Path, about: Mapping[str, Any], files: Mapping[Path, bytes]) -> None:
    """Write `files`, then `about` at `path`: its receipt gets their sums, and its own."""
    for file, content in files.items():
        write_atomic(file, content)
    sums = {file.as_posix(): hashlib.sha256(content).hexdigest() for file, content in files.items()}

    whole = {**about, "receipt": {**about["receipt"], "files": sums}}
    whole["receipt"]["sha256"] = _own_sum(whole)
    write_atomic(path, _text(whole))


def _text(whole: Mapping[str, Any]) -> bytes:
    return (json.dumps(whole, indent=1) + "\n").encode()


def is_of(path: Path, plan: str, outputs: Iterable[Path]) -> bool:
    """Whether these outputs, with the receipt at `path` among them, are this plan's and unchanged.

    Of records and weights that count now, by the manifest, it must rest on just these.
    """
    try:
        stat = path.stat()
        receipt = _read(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if receipt is None or receipt["plan"] != plan:
            return False

        files = {file.as_posix(): file for file in outputs if file != path}
        if set(receipt["files"]) != set(files):
            return False
        same = all(sum_of(file) == receipt["files"][name] for name, file in files.items())
    except OSError:
        return False

    listed = manifest.read()
    return same and all(
        sha256 in listed[name].sha256.values()
        for name, sha256 in receipt["rests_on"].items()
        if name in listed
    )


@cache
def _read(path: str, _size: int, _time: int, _number: int) -> dict[str, Any] | None:
    """The receipt in a file that is as it was written; None in any other."""
    try:
        content = Path(path).read_bytes()
        whole = json.loads(content)
        receipt = whole["receipt"]
        is_whole = set(receipt) == KEYS and receipt["sha256"] == _own_sum(whole)
        # JSON ignores spaces and repeated keys; the bytes must be those that were written.
        is_whole = is_whole and content == _text(whole)
        is_whole = is_whole and all(isinstance(receipt[key], dict) for key in ("files", "rests_on"))
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return dict(receipt) if is_whole else None


def _own_sum(whole: Mapping[str, Any]) -> str:
    """sha256 of everything in the .json but this sum."""
    rest = {k: v for k, v in whole["receipt"].items() if k != "sha256"}
    text = json.dumps({**whole, "receipt": rest}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
