"""Records on disk: named arrays in one .npz without pickles, equal contents equal bytes."""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.store import manifest
from pipeline.store.files import fetched_from
from pipeline.store.names import is_sha256

Arrays = dict[str, NDArray[Any]]

PARTS = ("right", "margin", "loss", "members")  # of clean images and under every attack
SIZES = ("linf", "l2", "l1", "pixels", "outside", "unchanged", "asked", "work")  # of an attack
ABOUT = {"spec": dict, "victim": str, "suite": str, "weights": dict, "cost": dict}
DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    MemoryError,
    OverflowError,
    RecursionError,
    RuntimeError,  # zipfile's word for a method it lacks, or a password
    SyntaxError,  # numpy's, of a header that is no Python
    zipfile.BadZipFile,
    zlib.error,
)


def pack(arrays: Arrays) -> bytes:
    """The bytes of an .npz; numpy dates its members 1980, so they repeat."""
    buffer = io.BytesIO()
    # Sorted, so that equal arrays give equal bytes in whatever order they were made.
    np.savez_compressed(buffer, **{k: arrays[k] for k in sorted(arrays)})  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(content: bytes) -> Arrays:
    """The arrays of an .npz; raises one of DAMAGE when it is not whole.

    numpy's own reader makes room for what a header claims before it looks how much there is.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        return {m.filename.removesuffix(".npy"): _read_member(archive, m) for m in members}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    buffer = io.BytesIO(archive.read(info))
    version = npy.read_magic(buffer)
    # Any other version is a KeyError, and so DAMAGE.
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, by_column, dtype = read(buffer)

    rest = buffer.read()
    # Objects are pickles, which may run code.
    if dtype.hasobject or len(rest) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename} is not what its header says")

    array = np.ndarray(shape, dtype, rest, order="F" if by_column else "C")
    return array.copy()


def peek(path: Path) -> dict[str, Any]:
    """What a record says of itself, its arrays unread; raises one of DAMAGE when it says nothing.

    What it is good for is known once `read_record` has read it whole.
    """
    with zipfile.ZipFile(path) as archive:
        return meta({"meta": _read_member(archive, archive.getinfo("meta.npy"))})


def read_arrays(path: Path) -> Arrays:
    """All arrays of a record; raises UserError when it is missing, truncated or altered."""
    manifest.verify(path)
    try:
        return unpack(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; {fetched_from('records')}") from None
    except DAMAGE as e:
        raise UserError(f"{path}: truncated or corrupt ({e}); delete it and evaluate again") from e


def read_record(path: Path, attacks: Iterable[str]) -> Arrays:
    """A record's arrays, each of the shape and range it must have, for all of its attacks."""
    arrays = read_arrays(path)
    wrong = _wrong(arrays, attacks) or _unsaid(arrays)
    if wrong:
        raise UserError(f"{path}: is no whole record ({wrong}); delete it and evaluate again")
    return arrays


def read_part(content: bytes, images: int) -> Arrays | None:
    """Verdicts under one attack, kept while a record is made; None unless they are whole."""
    try:
        arrays = unpack(content)
    except DAMAGE:
        return None

    lacks = [name for name in (*PARTS, *SIZES) if name not in arrays]
    return None if lacks or _misshapen(arrays, images) else arrays


def _wrong(arrays: Arrays, attacks: Iterable[str]) -> str:
    """What a record lacks, or has in another shape, type or range; empty when nothing."""
    needed = ["ids", "labels", *(f"clean/{part}" for part in PARTS)]
    needed += [f"{attack}/{part}" for attack in attacks for part in (*PARTS, *SIZES)]

    missing = [name for name in needed if name not in arrays]
    if missing:
        return f"lacks {missing[0]}"

    count = len(arrays["labels"]) if arrays["labels"].ndim == 1 else 0
    return _misshapen({k: v for k, v in arrays.items() if k != "meta"}, count)


def _misshapen(arrays: Arrays, count: int) -> str:
    """The first array that is not of so many images, in words; empty when all are."""
    for name, array in arrays.items():
        kind = name.rpartition("/")[2]
        if array.dtype.kind not in "fiub" or array.ndim == 0 or not count:
            return f"{name} holds no numbers of images"
        # `work` holds two numbers, forwards and backwards; all else has one value an image.
        if len(array) != (2 if kind == "work" else count):
            return f"{name} is of {len(array)} images, labels of {count}"
        if kind == "right" and not ((array >= 0) & (array <= 1)).all():
            return f"{name} leaves the range of shares, [0, 1]"
    return ""


def _unsaid(arrays: Arrays) -> str:
    """What a record does not say of itself, or in another type; empty when nothing."""
    try:
        about = meta(arrays)
    except (KeyError, ValueError, RecursionError):
        return "does not say what it is of"
    for key, kind in ABOUT.items():
        if not isinstance(about, dict) or not isinstance(about.get(key), kind):
            return f"does not say its {key}"

    behind = [about[key] for key in ("weights", "sets", "before") if key in about]
    if not all(isinstance(part, dict) for part in behind):
        return "does not say its sets"

    sums = [sha256 for part in behind for sha256 in part.values()]
    if not all(isinstance(sha256, str) and is_sha256(sha256) for sha256 in sums):
        return "does not say the sums of its weights"
    return ""


def meta(arrays: Arrays) -> dict[str, Any]:
    """What the record says of itself: spec, victim, weights, cost."""
    loaded: dict[str, Any] = json.loads(str(arrays["meta"]))
    return loaded


def rests_on(about: dict[str, Any]) -> dict[str, str]:
    """sha256 of the weights, transfer sets and records behind a record or set, by artifact."""
    weights = {f"results/runs/{run}": sha256 for run, sha256 in about["weights"].items()}
    sets = {f"results/transfer/{id}.safetensors": s for id, s in about.get("sets", {}).items()}
    before = {f"results/records/{id}.npz": s for id, s in about.get("before", {}).items()}
    return weights | sets | before
