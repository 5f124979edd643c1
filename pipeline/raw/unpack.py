"""Unpack a verified archive: only plain files, only below its one folder, at once or not at all."""

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError
from pipeline.raw.aside import keep_aside
from pipeline.store.files import storing, sync_folder

Member = tuple[str, bool]  # name, and whether it is a plain file or a folder
DAMAGE = (
    shutil.ReadError,
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
    shutil's filter would refuse some of these and mend or skip others, so names are read first.
    """
    part = folder.with_name(folder.name + ".part")
    with storing(folder):
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        try:
            _unpack(archive, folder.name, part)
            if folder.exists():
                keep_aside(folder, folder.name)
            os.replace(part / folder.name, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    sync_folder(folder.parent)


def _unpack(archive: Path, top: str, part: Path) -> None:
    is_zip = archive.suffix == ".zip"
    try:
        for name, is_plain in _zip_members(archive) if is_zip else _tar_members(archive):
            if not is_plain:
                raise _refused(archive, name, "is a link or a device")
            parts = PurePosixPath(name).parts
            if parts[:1] != (top,) or ".." in parts:
                raise _refused(archive, name, f"lies outside {top}/")

        # not synced one by one, minutes for 120,000 files: verified.json has their sizes
        if is_zip:
            shutil.unpack_archive(archive, part, "zip")
        else:
            shutil.unpack_archive(archive, part, "gztar", filter="data")
    except DAMAGE as error:
        raise UserError(
            f"{archive}: cannot be unpacked ({error}); move it away and run again"
        ) from error

    if not (part / top).is_dir():
        raise UserError(f"{archive}: has no files in {top}/: it is not the official archive")


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver wrote none
            yield info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:gz") as file:
        for info in file:
            yield info.name, info.isreg() or info.isdir()


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"{archive}: refused: its member {name!r} {why}; fetch the official archive")
