"""Fetch a data set's official files into data/raw/ and verify them: python -m pipeline.download."""

import argparse
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.plan import load_plan
from pipeline.raw.fetch import Files, Source, fetch, verify
from pipeline.raw.local import take
from pipeline.raw.receipt import (
    DEEP,
    OFFICIAL,
    is_unchanged,
    read_receipt,
    receipt_row,
    sum_tree,
    write_receipt,
)
from pipeline.raw.unpack import unpack
from pipeline.store.files import locked


def download(
    raw: Path,
    sources: Sequence[Source],
    sha256: Sequence[str],
    mirror: str | None,
    official: Collection[str] | None = None,
) -> None:
    """Make every source available below `raw`, and say so in its receipt.

    `official` are the sums of the files that the sources describe; where nobody says, all of
    `sha256`. A corrected file has another one. Raises UserError when a file cannot be had or its
    checksum differs.
    """
    if len(sha256) != len(sources):
        names = ", ".join(source.name for source in sources)
        raise UserError(
            f"params.yaml: datasets.{raw.name}.sha256: has {len(sha256)} values, needs "
            f"{len(sources)}: those of {names}"
        )

    with locked(raw):
        rows = [
            row
            for source, digest in zip(sources, sha256, strict=True)
            for row in _obtain(raw, source, digest, mirror, digest in (official or sha256))
        ]
        write_receipt(raw, rows)


def _obtain(
    raw: Path, source: Source, sha256: str, mirror: str | None, is_official: bool
) -> list[dict[str, Any]]:
    """Receipt rows of one source: its file, what came out of it, or what serves instead."""
    if not is_official:
        # Its md5, its size and what serves instead are those of a file that is not meant.
        source = replace(source, md5=None, size=None, instead=())
    target, inside = raw / source.name, f"{source.folder}{DEEP}"
    checksums = {"sha256": sha256} | ({"md5": source.md5} if source.md5 else {})

    came_out = [row for row in _read_known(raw) if row["path"] == inside]  # of a corrected archive
    if any(row.get("sha256") == sha256 and is_unchanged(raw, row) for row in came_out):
        print(f"{raw / inside}: was there, checksum right")
        return came_out
    if not came_out and not (target.is_file() and source.folder is None):
        # Unpacked files, or torchvision's folder, serve as well as the file itself.
        for group in source.instead:
            if _is_there(raw, group):
                return _verify_group(raw, group, source)

    if target.is_file():
        verify(target, checksums)
        print(f"{target}: was there, checksum right")
    else:
        raw.mkdir(parents=True, exist_ok=True)
        fetch(_list_locations(source, raw.name, mirror), target, checksums, source.size)
        print(f"{target}: fetched, checksum right")

    if source.folder is None:
        return [receipt_row(raw, source.name, checksums)]
    print(f"{raw / source.folder}: unpacking", flush=True)
    unpack(target, raw / source.folder)
    if not is_official:
        return [receipt_row(raw, inside, {"sha256": sha256, "tree": sum_tree(raw, inside)})]
    if not _is_there(raw, source.instead[0]):
        raise UserError(
            f"{target}: lacks files of the official archive; move it away and run again"
        )
    return _verify_group(raw, source.instead[0], source)


def _read_known(raw: Path) -> list[dict[str, Any]]:
    """Rows of the receipt that is there; none where it is missing or damaged: it is made anew."""
    with suppress(UserError):
        return read_receipt(raw)
    return []


def _list_locations(source: Source, component: str, mirror: str | None) -> tuple[str, ...]:
    """Where to fetch from: the mirror when there is one, unless the file is on this machine."""
    if mirror is None or all(url.startswith("file:") for url in source.urls):
        return source.urls
    base = mirror if "://" in mirror else Path(os.path.expanduser(mirror)).resolve().as_uri()
    base = base.rstrip("/")
    return (f"{base}/{component}/{source.name}", f"{base}/{source.name}")


def _is_there(raw: Path, group: Sequence[Files]) -> bool:
    """Whether all files of a group exist; says so when only some do."""
    counts = [(files, len(list(raw.glob(files.path)))) for files in group]
    wrong = [(files, count) for files, count in counts if count != files.count]
    if wrong and any(count for _, count in counts):
        files, count = wrong[0]
        print(f"{raw / files.path}: {count} of {files.count} there, not used")
    return not wrong


def _verify_group(raw: Path, group: Sequence[Files], source: Source) -> list[dict[str, Any]]:
    rows, packed = [], f"put {source.name} with it into {raw} and write the sha256 of that"
    for files in group:
        checksums = {"md5": files.md5} if files.md5 else {}
        if checksums:
            verify(raw / files.path, checksums, f"{packed} at the data set in params.yaml")
        rows.append(receipt_row(raw, files.path, checksums))

    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    summed = all(files.md5 for files in group)
    print(f"{raw / group[0].path}{more}: {'checksums' if summed else 'numbers of files'} right")
    return rows


def _find_sources(component: str) -> tuple[Source, ...]:
    """The official files of a data set; raises UserError where its file names none."""
    found: tuple[Source, ...] = getattr(
        import_module(f"pipeline.datasets.{component}"), "sources", tuple
    )()
    if not found:
        raise UserError(
            f"pipeline/datasets/{component}.py: no `sources()` says where its files are fetched; "
            "write it, or inherit LocalSet for files of your own (docs/add-a-data-set.md)"
        )
    return found


def main(argv: list[str] | None = None) -> None:
    """python -m pipeline.download <entry of datasets:>."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.download", description=__doc__)
    parser.add_argument("dataset", help="name of an entry of `datasets:` in params.yaml")
    plan = load_plan()
    entry = plan.dataset(parser.parse_args(argv).dataset)
    if entry.place is not None:
        print(take(entry.raw, entry.place, entry.fields["sha256"]))
        return
    sources = _find_sources(entry.component)
    mirror = os.environ.get("ROBUST_MIRROR") or plan.mirror
    official = OFFICIAL.get(entry.component)
    download(entry.raw, sources, entry.fields["sha256"], mirror, official)


if __name__ == "__main__":
    report(main)
