"""Files of work that goes on: each behind its checksum, and thrown away when it does not hold."""

import hashlib
from pathlib import Path

from pipeline.store.files import write_atomic
from pipeline.store.lease import check_held

DIGEST = hashlib.sha256().digest_size  # bytes at the head of a file


def write_scratch(path: Path, content: bytes) -> None:
    """Write bytes atomically behind their checksum, as the one process that works on them."""
    check_held()
    write_atomic(path, hashlib.sha256(content).digest() + content)


def read_scratch(path: Path) -> bytes | None:
    """The bytes, or None when there are none that hold: what they held is then made again."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    content = whole[DIGEST:]
    if hashlib.sha256(content).digest() == whole[:DIGEST]:
        return content

    throw_away(path)
    return None


def throw_away(path: Path) -> None:
    """Delete what cannot be gone on from, and say so in the log."""
    print(f"{path}: is damaged, so it is thrown away and made again", flush=True)
    path.unlink(missing_ok=True)
