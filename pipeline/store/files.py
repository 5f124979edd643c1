"""Files that are whole or absent: atomic writes, locks, checksums outside and inside of files."""

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Content = bytes | Callable[[BinaryIO], object]  # of a file, or what writes it

CHUNK = 1 << 20
DAY = 86400  # seconds
ALIGN = 8  # of the header, so that tensors behind it lie on their element's size


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a read-only folder into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}): free space or correct "
            "the folder's permissions, then run the same command again"
        ) from error


def write_atomic(
    path: Path, content: Content, before: Callable[[Path], None] | None = None
) -> None:
    """Replace `path` by bytes, or by what a writer puts into a binary file, at once or not at all.

    `before` sees the whole file while it has not got its name. Raises UserError on a full disk or
    a read-only folder; the old file then stays.
    """
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        try:
            with temp.open("xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                # Before the rename: after a power cut no name may stand for an empty file.
                os.fsync(file.fileno())
            if before:
                before(temp)
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
    sync_folder(path.parent)


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left that were killed more than a day ago."""
    for temp in path.parent.iterdir():
        if temp.name.startswith(f".{path.name}.") and temp.suffix == ".tmp":
            with suppress(FileNotFoundError):  # another writer sweeps too
                if time.time() - temp.stat().st_mtime > DAY:
                    temp.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # some network file systems cannot; the rename itself has happened
        os.fsync(handle)
    os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one process, waiting for another that has it; a kill releases it."""
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(folder / ".lock")
    with os.fdopen(file, "rb"):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at work there, waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: checksums then tell when two processes met
        yield


def _open_lock(path: Path) -> int:
    """The lock's file, never emptied, never behind a link; a colleague's is opened for reading."""
    if path.is_symlink():
        raise UserError(f"{path}: is a link, and a lock follows none; remove the link")
    how = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, how | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, how | os.O_RDONLY)


def checksum(path: Path, algorithm: str) -> str:
    """Hex digest of a file's bytes; `algorithm` is sha256 or md5."""
    with path.open("rb") as file:
        # md5 identifies official files here, it protects nothing: allowed where FIPS forbids it
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    return checksum(path, "sha256")


def save_safetensors(
    path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]
) -> None:
    """Write tensors and metadata atomically."""
    write_atomic(path, safetensors(tensors, metadata))


def safetensors(
    tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]
) -> Callable[[BinaryIO], object]:
    """What writes tensors and metadata into a file; equal contents give equal bytes.

    The reserved key `sha256` covers everything else in the file, header included, so that a reader
    sees a flipped bit. The library's writer (safetensors 0.8.0) orders metadata at random and
    gives a path, not a stream: with one metadata key it repeats too, at equal memory, but it saves
    twenty of these lines, needs its own mending of full disks, and moves the bytes of all there is.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    buffers = [_buffer(tensors[name]) for name in names]
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, buffer in zip(names, buffers, strict=True):
        tensor, end = tensors[name], start + buffer.nbytes
        header[name] = {
            "dtype": _dtypes()[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    digest = hashlib.sha256(_encode(header))
    for buffer in buffers:
        digest.update(buffer)
    header["__metadata__"]["sha256"] = digest.hexdigest()

    def write(file: BinaryIO) -> None:
        head = _encode(header)
        file.write(len(head).to_bytes(8, "little") + head)
        for buffer in buffers:
            file.write(buffer)

    return write


def fetched_from(pool: str) -> str:
    """What to do about a result that is not there."""
    return f"snakemake makes it with the table that needs it, dvc pull results/{pool} fetches it"


def load_safetensors(
    path: Path, remedy: str, missing: str = ""
) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Tensors and metadata of a file written by save_safetensors.

    Raises UserError with the file and `remedy` when it is truncated or altered, with `missing`,
    or else `remedy`, when it is not there.
    """
    # torch takes seconds to load, and most users of this module write no tensors
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        metadata = _checked_metadata(path)
        return load_file(path), metadata
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; {missing or remedy}") from error
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{path}: truncated or corrupt ({error}); {remedy}") from error


def check_safetensors(path: Path) -> dict[str, str]:
    """Metadata of a whole file, its tensors unread; raises UserError when it is damaged."""
    try:
        return _checked_metadata(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; make it again") from error
    except ValueError as error:
        raise UserError(f"{path}: truncated or corrupt ({error}); delete it and re-run") from error


def _checked_metadata(path: Path) -> dict[str, str]:
    """Metadata without the checksum; raises ValueError when the checksum does not hold."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError("its header is cut")
        raw = file.read(length)
        header = _header(raw)
        # One spelling of a header: what reads alike and is written otherwise was altered.
        if raw != _encode(header):
            raise ValueError("its header is altered")
        metadata: dict[str, str] = header["__metadata__"]
        expected = metadata.pop("sha256", "")
        digest = hashlib.sha256(_encode(header))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise ValueError("its checksum does not hold")
    return metadata


def _header(raw: bytes) -> dict[str, Any]:
    """The header with its metadata, which are texts; raises ValueError for anything else."""
    try:
        header = json.loads(raw)
    except RecursionError:
        raise ValueError("its header is nested without end") from None
    about = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise ValueError("its header has no metadata")
    return dict(header)


def _encode(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % ALIGN)


def _buffer(tensor: "Tensor") -> memoryview:
    """The tensor's bytes, without a copy when it is contiguous on the CPU."""
    import torch

    whole = tensor.detach().cpu().contiguous()
    # one or no element counts as contiguous whatever its stride, which a view as bytes refuses
    flat = whole.as_strided((whole.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def _dtypes() -> dict[str, str]:
    names = {"uint8": "U8", "bool": "BOOL", "float16": "F16", "bfloat16": "BF16"}
    names |= {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}
    names |= {f"float{bits}": f"F{bits}" for bits in (32, 64)}
    return {f"torch.{name}": code for name, code in names.items()}
