"""Data of the user's own: linked where they lie and summed; nothing of theirs is ever changed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.raw.receipt import measure, receipt_row, sum_tree, write_receipt
from pipeline.store.files import locked, sha256_of

LINK = "files"  # below the raw folder
NONE = "none"
INSIDE = f"{LINK}/**/*"  # of a folder


def take(raw: Path, place: str, stated: Sequence[str]) -> str:
    """Link the user's file or folder as `<raw>/files` and write the receipt; what was done.

    Raises UserError when nothing lies there, when we write into that folder, or when its sum is not
    the one that the entry states; the line then holds the sum, to be pasted.
    """
    where = f"params.yaml: datasets.{raw.name}"
    if place == NONE:
        raise UserError(f"{where}.files: is none; name your file or folder")
    target = Path(os.path.expanduser(place)).absolute()
    if not target.exists():
        raise UserError(f"{where}.files: {place}: no such file or folder")
    _check_apart(raw, target, f"{where}.files: {place}")

    with locked(raw):
        _link(raw / LINK, target)
        row = _row(raw)
        if list(stated) != [row["sha256"]]:
            raise UserError(
                f"{where}.sha256: is {', '.join(stated)}, and {place} has another; if these are "
                f"the files that you mean, write sha256: [{row['sha256']}]"
            )
        write_receipt(raw, [row])
    return f"{raw / LINK}: link to {place}, {row['files']} files, checksum right"


def _check_apart(raw: Path, target: Path, where: str) -> None:
    """Raise UserError where what is written for the data set would be among the user's files."""
    prepared, place = (raw.parent.parent / raw.name).resolve(), target.resolve()
    holds = any(folder.is_relative_to(place) for folder in (prepared, raw.resolve()))
    if holds or place.is_relative_to(prepared):
        raise UserError(
            f"{where}: {raw.parent.parent / raw.name} and {raw} are written for this data set; "
            "move your files to a folder elsewhere, such as ../my-data, and name that"
        )


def _link(link: Path, target: Path) -> None:
    """Point the link there; it is ours, what else has its name is not."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise UserError(f"{link}: is in the way of a link; move it where `files` can name it")
    link.symlink_to(target)


def _row(raw: Path) -> dict[str, Any]:
    """The receipt's row: the sum of the file, or of names and sums of all files in the folder."""
    if (raw / LINK).is_file():
        return receipt_row(raw, LINK, {"sha256": sha256_of(raw / LINK)})
    if not measure(raw, INSIDE)["files"]:
        raise UserError(f"{raw / LINK}: the folder holds no file")
    tree = sum_tree(raw, INSIDE)
    return receipt_row(raw, INSIDE, {"sha256": tree, "tree": tree})
