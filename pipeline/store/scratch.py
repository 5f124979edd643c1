"""Files of work that goes on: each behind its checksum, and thrown away when it does not hold."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.store.files import Content, write_atomic
from pipeline.store.lease import check_held

DIGEST = hashlib.sha256().digest_size  # bytes at the head of a file


def write_scratch(path: Path, content: Content) -> None:
    """Write bytes, or what a writer puts out, atomically behind their checksum, as the one process
    that works on them; nothing is held in memory."""
    check_held()

    def write(file: BinaryIO) -> None:
        file.write(bytes(DIGEST))  # room for the checksum, which is known when all is written
        summed = _Summed(file)
        if isinstance(content, bytes):
            summed.write(content)
        else:
            content(cast(BinaryIO, summed))
        file.seek(0)
        file.write(summed.sum.digest())

    write_atomic(path, write)


def read_scratch(path: Path) -> bytes | None:
    """The bytes, or None when there are none that hold: what they held is then made again."""
    file = open_scratch(path)
    if file is None:
        return None
    with file:
        return file.read()


def read_memo(path: Path) -> dict[str, Any]:
    """What a process wrote in JSON to spare the next one work; nothing where that is no mapping."""
    content = read_scratch(path)
    loaded = None if content is None else json.loads(content)
    return loaded if isinstance(loaded, dict) else {}


def open_scratch(path: Path) -> io.BufferedReader | None:
    """The content as a file whose checksum holds, or None; read piece by piece."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    expected = file.read(DIGEST)
    if hashlib.file_digest(file, "sha256").digest() == expected:
        return io.BufferedReader(_Behind(file))

    file.close()
    throw_away(path)
    return None


def throw_away(path: Path, why: str = "is damaged") -> None:
    """Delete what cannot be gone on from, and say so in the log."""
    print(f"{path}: {why}, so it is thrown away and made again", flush=True)
    path.unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> None:
    """Rename what is whole but no beginning of today's work, and say so in the log."""
    with path.open("rb") as file:
        kept = path.with_name(f"{path.name}.{file.read(DIGEST)[:4].hex()}")
    path.replace(kept)
    print(f"{path}: {why}, so this begins anew; it is kept as {kept}", flush=True)


class _Summed(io.RawIOBase):
    """Passes bytes on to a file and sums them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, content: Any) -> int:
        """All of it."""
        self.sum.update(content)
        return self.file.write(content)


class _Behind(io.RawIOBase):
    """A file without the checksum at its head."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.file.seek(DIGEST)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As much as there is."""
        return self.file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Positions count from behind the checksum."""
        start = DIGEST if whence == os.SEEK_SET else 0
        return self.file.seek(start + offset, whence) - DIGEST

    def close(self) -> None:
        """Both."""
        self.file.close()
        super().close()
