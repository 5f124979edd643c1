"""verified.json: which raw files were verified, for the stage that reads them to look again."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.store.files import checksum, sha256_of, write_atomic
from pipeline.store.names import is_inside

if TYPE_CHECKING:
    from pipeline.raw.fetch import Source

NAME = "verified.json"
DEEP = "/**/*"  # ends a pattern of a whole folder
SEEN = ("path", "files", "bytes")
SUMS = {"sha256": 64, "md5": 32, "tree": 64}  # hex digits
OFFICIAL = {  # sha256 of the official files, by component: what params.yaml states as it ships
    "digits": ("09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",),
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "cifar10": ("6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",),
    "cifar100": ("85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",),
    "tiny_imagenet": ("6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",),
}


def measure(raw: Path, pattern: str) -> dict[str, Any]:
    """How many files below `raw` match a pattern, and their bytes together."""
    sizes = [path.stat().st_size for path in _list_files(raw, pattern)]
    return dict(zip(SEEN, (pattern, len(sizes), sum(sizes)), strict=True))


def receipt_row(raw: Path, pattern: str, checksums: Mapping[str, str]) -> dict[str, Any]:
    """What a receipt says of some files: path, number, bytes, and the checksum that held.

    Files that nobody publishes sums of get one of all together, as they are now.
    """
    return {**measure(raw, pattern), **(checksums or {"tree": sum_tree(raw, pattern)})}


def sum_tree(raw: Path, pattern: str) -> str:
    """sha256 over names and sums of all files that match."""
    whole = hashlib.sha256()
    for path in sorted(_list_files(raw, pattern)):
        line = f"{path.relative_to(raw).as_posix()} {sha256_of(path)}\n"
        whole.update(line.encode(errors="surrogateescape"))  # a name may be no UTF-8
    return whole.hexdigest()


def _list_files(raw: Path, pattern: str) -> Iterator[Path]:
    """The files that match; of a whole folder those behind links in it too, as its readers see."""
    if pattern.endswith(DEEP):
        return filter(Path.is_file, walk_files(raw / pattern.removesuffix(DEEP)))
    return filter(Path.is_file, raw.glob(pattern))


def walk_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, behind links too, and links that lead nowhere: a reader says so.

    A link to a folder above it, or among those `above`, is not followed again.
    """
    real = folder.resolve()
    is_new = folder.is_dir() and real not in above  # a link may have lost what it named
    for path in folder.iterdir() if is_new else ():
        if path.is_dir():
            yield from walk_files(path, (*above, real))
        else:
            yield path


def write_receipt(raw: Path, rows: list[dict[str, Any]]) -> None:
    """Write the receipt, unless it says so already. It comes last: it stands for the download."""
    path = raw / NAME
    content = json.dumps(rows, indent=1, sort_keys=True).encode() + b"\n"
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


def list_corrected(sha256: Collection[str], official: Collection[str] | None) -> set[str]:
    """The sums that are of no official file; none where nobody says which files are official."""
    return set() if official is None else set(sha256) - set(official)


def is_stated(raw: Path, sha256: Collection[str], official: Collection[str] | None) -> bool:
    """Whether files were verified against these sums of params.yaml.

    Official files that were there unpacked have a receipt without sha256; corrected ones never.
    """
    return list_corrected(sha256, official) <= summed(raw) <= set(sha256)


def check_stated(
    raw: Path, sha256: Collection[str], official: Collection[str] | None = None
) -> None:
    """Raise UserError when files were verified against other sums than these of params.yaml."""
    if not is_stated(raw, sha256, official):
        raise UserError(
            f"{raw / NAME}: is of other files than datasets.{raw.name}.sha256 of params.yaml "
            f"names; run python -m pipeline.download {raw.name}"
        )


def summed(raw: Path) -> set[str]:
    """The sha256 sums that a receipt holds; none where only unpacked files are kept."""
    return {row["sha256"] for row in read_receipt(raw) if "sha256" in row}


def read_receipt(raw: Path) -> list[dict[str, Any]]:
    """The rows of a receipt; raises UserError unless each names files below it and their sum."""
    path = raw / NAME
    remedy = f"run python -m pipeline.download {raw.name}"
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; {remedy}") from error
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise UserError(f"{path}: is no receipt of verified files; delete it and {remedy}")
    return rows


def _is_row(row: Any) -> bool:
    """Whether it says where files lie, how many they are, their bytes, and a sum."""
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        return False
    sums = [isinstance(row[k], str) and len(row[k]) == n for k, n in SUMS.items() if k in row]
    counts = [row.get("files"), row.get("bytes")]
    is_counted = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
    return is_inside(row["path"]) and bool(sums) and all(sums) and is_counted and counts[0] != 0


def check_receipt(raw: Path) -> None:
    """Raise UserError unless the verified files are as they were: number, bytes, checksum."""
    changed = [row["path"] for row in read_receipt(raw) if not is_unchanged(raw, row)]
    if changed:
        remedy = f"run python -m pipeline.download {raw.name}"
        raise UserError(f"{raw / changed[0]}: changed since it was verified; {remedy}")


def check_read(raw: Path, sources: Iterable["Source"]) -> None:
    """Raise UserError where a file that serves before the verified one came since: it is read."""
    verified = {row["path"] for row in read_receipt(raw)}
    for source in sources:
        places = [source.name, *(files.path for group in source.instead for files in group)]
        there = [place for place in places if (raw / place).exists()]
        if source.folder is None and there and there[0] not in verified:
            remedy = f"run python -m pipeline.download {raw.name}"
            raise UserError(f"{raw / there[0]}: is not the file that was verified; {remedy}")


def is_unchanged(raw: Path, row: dict[str, Any]) -> bool:
    """Whether the files of a receipt's row are as they were: number, bytes, checksum."""
    now = measure(raw, row["path"])
    if any(now[key] != row[key] for key in SEEN):
        return False
    if "tree" in row:
        return sum_tree(raw, row["path"]) == str(row["tree"])
    key = "sha256" if "sha256" in row else "md5"
    return checksum(raw / row["path"], key) == str(row[key])
