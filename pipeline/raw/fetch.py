"""Fetch one file: resumed where it stopped, verified before it gets its name."""

import os
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.raw.aside import keep_aside, list_aside
from pipeline.store.files import checksum, storing, sync_folder

CHUNK = 1 << 18
TIMEOUT = 30  # seconds without a byte
RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206
MEANT = "write its sha256 at the data set in params.yaml"  # what makes a file the right one


@dataclass(frozen=True, kw_only=True)
class Files:
    """Official files below the raw folder: `count` matches of a path or pattern.

    `md5` is None where nobody publishes one.
    """

    path: str
    count: int = 1
    md5: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to fetch. Any one tuple of `instead` serves in its place, all of its files together.

    With `folder` it is an archive whose one top folder has that name; `instead[0]` is then what
    must come out of it.
    """

    name: str
    urls: tuple[str, ...]
    md5: str | None
    size: int | None = None  # bytes; nobody may send more
    folder: str | None = None
    instead: tuple[tuple[Files, ...], ...] = ()


class _Broken(Exception):
    """The other side failed: no connection, an error status, or a cut."""


def fetch(
    urls: Sequence[str], target: Path, checksums: Mapping[str, str], size: int | None = None
) -> None:
    """Make `target` from the first URL that has it; `checksums` is algorithm -> hex digest.

    What arrived before a failure stays in `<target>.part`; the next call goes on from there. Who
    sends more than `size` bytes, or others, is left for the next. A file that was kept as
    `<target>.bad` serves once it is what `checksums` say. Raises UserError when no URL has the
    file, or when the disk is full.
    """
    part = target.with_name(f"{target.name}.part")
    found = _find_right((part, *list_aside(target)), checksums)
    if not found:
        _fetch_any(urls, target, part, checksums, size)

    os.replace(found or part, target)
    sync_folder(target.parent)


def verify(path: Path, checksums: Mapping[str, str], keep: str = MEANT) -> None:
    """Raise UserError when a checksum differs; the file is then kept as `<path>.bad`.

    One that was kept so before and is what `checksums` say takes its place. A file behind a link,
    in a group's folder perhaps, stays where it is. `keep` says what to do for the file to be the
    right one.
    """
    wrong = _mismatch(path, checksums)
    if not wrong:
        return

    is_linked = any(part.is_symlink() for part in (path, *path.parents))
    right = None if is_linked else _find_right(list_aside(path), checksums)
    kept = "" if is_linked else keep_aside(path, path.name)
    if right and kept:
        os.replace(right, path)
        sync_folder(path.parent)
    else:
        remedy = (
            "run the same command again to fetch the right file, or put it there; if this is "
            f"the file that you mean, {keep}"
        )
        raise UserError(f"{path}: {wrong}{kept}; {remedy if kept else 'put the right file there'}")


def _find_right(paths: Iterable[Path], checksums: Mapping[str, str]) -> Path | None:
    return next((p for p in paths if p.is_file() and not _mismatch(p, checksums)), None)


def _mismatch(path: Path, checksums: Mapping[str, str]) -> str:
    for algorithm, expected in checksums.items():
        found = checksum(path, algorithm)
        if found != expected:
            return f"{algorithm} expected {expected}, found {found}"
    return ""


def _fetch_any(
    urls: Sequence[str],
    target: Path,
    part: Path,
    checksums: Mapping[str, str],
    size: int | None,
) -> None:
    failures = []
    for url in urls:
        try:
            _fetch_whole(url, part, size)
        except _Broken as error:
            failures.append(f"{shown(url)}: {error}")
            continue

        wrong = _mismatch(part, checksums)
        if not wrong:
            return
        failures.append(f"{shown(url)}: {wrong}{keep_aside(part, target.name)}")
        part.unlink(missing_ok=True)

    raise UserError(
        f"{target}: not fetched ({'; '.join(failures)}): run the same command again to go on where "
        "it stopped, set `mirror:` in params.yaml or ROBUST_MIRROR to a folder or URL that has "
        f"{target.name}, or put the file there; if what was found is what you mean, {MEANT}"
    )


def shown(url: str) -> str:
    """An address as it may be printed: without user, password and whatever a query holds."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no address at all: nobody can say which part of it is secret
        return "an address that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    return _printable(urlunsplit((parts.scheme, host, parts.path, "", "")))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _fetch_whole(url: str, part: Path, size: int | None) -> None:
    """Stream until nothing is missing, again after a cut as long as each attempt brings more."""
    before = _size(part)
    while True:
        try:
            return _stream(url, part, size)
        except _Broken:
            if _size(part) <= before:
                raise
            before = _size(part)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stream(url: str, part: Path, size: int | None) -> None:
    """Append what is missing; start anew where the server cannot resume."""
    with _open(url, _size(part)) as reply:
        start, length = _span(reply, _size(part))
        with storing(part), part.open("ab") as file:
            # A server that cannot resume sends all again: what was there goes.
            file.truncate(start)
            whole = start + length if length else None
            with _bar(part.stem, start, whole) as bar:
                _copy(reply, file, bar, whole if size is None else size)
            file.flush()
            os.fsync(file.fileno())

    if length is not None and _size(part) < start + length:
        raise _Broken(f"cut after {_size(part)} of {start + length} bytes")


def _open(url: str, offset: int) -> Any:
    headers = {"User-Agent": "robust-ensembles"}
    if offset:
        headers["Range"] = f"bytes={offset}-"

    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        request = Request(urlunsplit(parts._replace(netloc=host)), headers=headers)
        if user:  # nobody whom the mirror sends us to gets it
            secret = b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {secret}")
        return urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE and offset:
            return _open(url, 0)
        raise _Broken(f"{error.code} {_printable(str(error.reason))}") from None
    except URLError as error:
        raise _Broken(_printable(str(error.reason))) from None
    except (HTTPException, ValueError) as error:  # their texts hold the address
        raise _Broken(type(error).__name__) from None
    except OSError as error:
        raise _Broken(str(error) or type(error).__name__) from None


def _span(reply: Any, offset: int) -> tuple[int, int | None]:
    """Where the reply's bytes start in the file, and how many they are when it says so."""
    length = reply.headers.get("Content-Length")
    start = 0
    if getattr(reply, "status", None) == PARTIAL_CONTENT:
        start = offset
        if not reply.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            raise _Broken(f"asked for bytes from {offset}, was sent others")
    if length and not length.isdecimal():
        raise _Broken("its reply has no length that is a number")
    return start, int(length) if length else None


def _copy(reply: Any, file: BinaryIO, bar: "tqdm[NoReturn]", most: int | None) -> None:
    while True:
        try:
            block = reply.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _Broken(str(error) or type(error).__name__) from error
        if not block:
            return

        bar.update(len(block))
        if most is not None and bar.n > most:
            # This is not the official file, so nothing of it is kept.
            file.truncate(0)
            raise _Broken(f"sends more than the file's {most} bytes")
        file.write(block)


def _bar(name: str, done: int, total: int | None) -> "tqdm[NoReturn]":
    """A bar on a terminal; elsewhere a line a minute."""
    terminal = sys.stderr.isatty()
    pause = {"mininterval": 0.2} if terminal else {"mininterval": 60, "delay": 60}
    return tqdm(
        desc=name, initial=done, total=total, unit="B", unit_scale=True, leave=terminal, **pause
    )
