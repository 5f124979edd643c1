"""Unpack a verified archive: only plain files, only below its one folder, at once or not at all."""

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import UserError
from pipeline.store.files import storing, sync_folder

Member = tuple[str, bool, Callable[[], IO[bytes]]]  # name, is it a folder, how to open it
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile's word for a method it lacks, or a password
)


def unpack(archive: Path, folder: Path) -> None:
    """Make `folder` from the top folder of that name in a .zip or .tar.gz archive.

    A folder that is there already is kept as `<folder>.bad`. Raises UserError for a member that
    is absolute, climbs out by `..`, lies elsewhere, or is a link or a device; nothing stays then.
    """
    part = folder.with_name(folder.name + ".part")
    with storing(folder):
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        try:
            _unpack(archive, folder.name, part)
            keep_aside(folder)
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    sync_folder(folder.parent)


def keep_aside(folder: Path) -> None:
    """Rename what stands at `folder`, if anything, to `<folder>.bad`."""
    aside = folder.with_name(folder.name + ".bad")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)


def _unpack(archive: Path, top: str, part: Path) -> None:
    try:
        for name, is_folder, open_member in _members(archive):
            parts = PurePosixPath(name).parts
            if parts[:1] != (top,) or ".." in parts:
                raise _refused(archive, name, f"lies outside {top}/")
            if not is_folder:
                _write(part.joinpath(*parts[1:]), open_member)
    except DAMAGE as error:
        raise UserError(
            f"{archive}: cannot be unpacked ({error}): delete it and run again"
        ) from error
    if not part.is_dir():
        raise UserError(f"{archive}: has no files in {top}/: it is not the official archive")


def _write(path: Path, open_member: Callable[[], IO[bytes]]) -> None:
    # not synced one by one, which takes minutes for 120,000 files: verified.json has their sizes
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_member() as source, path.open("xb") as file:
        shutil.copyfileobj(source, file)


def _members(archive: Path) -> Iterator[Member]:
    return _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver wrote none
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "is a link or a device")
            yield info.filename, info.is_dir(), partial(file.open, info)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:gz") as file:
        for info in file:
            if not (info.isreg() or info.isdir()):
                raise _refused(archive, info.name, "is a link or a device")
            yield info.name, info.isdir(), partial(_opened, file, info)


def _opened(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = file.extractfile(info)
    assert opened is not None  # only for members that are no files
    return opened


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"{archive}: refused: its member {name!r} {why}; fetch the official archive")
