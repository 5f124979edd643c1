"""verified.json: which raw files were verified, for the stage that reads them to look again."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.files import checksum, write_atomic

NAME = "verified.json"
SEEN = ("path", "files", "bytes")


def measure(raw: Path, pattern: str) -> dict[str, Any]:
    """How many files below `raw` match a pattern, and their bytes together."""
    sizes = [path.stat().st_size for path in raw.glob(pattern)]
    return dict(zip(SEEN, (pattern, len(sizes), sum(sizes)), strict=True))


def receipt_row(raw: Path, pattern: str, checksums: Mapping[str, str]) -> dict[str, Any]:
    """What a receipt says of some files: path, number, bytes, and the checksum that held."""
    return {**measure(raw, pattern), **checksums}


def write_receipt(raw: Path, rows: list[dict[str, Any]]) -> None:
    """Write the receipt, unless it says so already. It comes last: it stands for the download."""
    path = raw / NAME
    content = json.dumps(rows, indent=1, sort_keys=True).encode() + b"\n"
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


def check_stated(raw: Path, sha256: Collection[str]) -> None:
    """Raise UserError when files were verified against other sums than these of params.yaml."""
    if not summed(raw) <= set(sha256):
        raise UserError(
            f"{raw / NAME}: is of other files than datasets.{raw.name}.sha256 of params.yaml "
            f"names; run python -m pipeline.download {raw.name}"
        )


def summed(raw: Path) -> set[str]:
    """The sha256 sums that a checked receipt holds; none where only unpacked files are kept."""
    rows = json.loads((raw / NAME).read_bytes())
    return {row["sha256"] for row in rows if "sha256" in row}


def check_receipt(raw: Path) -> None:
    """Raise UserError unless the verified files are as they were: number, bytes, checksum."""
    path = raw / NAME
    remedy = f"run python -m pipeline.download {raw.name}"
    try:
        rows = json.loads(path.read_bytes())
        changed = [row["path"] for row in rows if not _holds(raw, row)]
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; {remedy}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read; delete it and {remedy}") from error
    if changed:
        raise UserError(f"{raw / changed[0]}: changed since it was verified; {remedy}")


def _holds(raw: Path, row: dict[str, Any]) -> bool:
    now = measure(raw, row["path"])
    sums = [key for key in ("sha256", "md5") if key in row][:1]
    return all(now[key] == row[key] for key in SEEN) and all(
        checksum(raw / row["path"], key) == row[key] for key in sums
    )
