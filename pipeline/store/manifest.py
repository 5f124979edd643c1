"""The manifest: what was recorded, one JSON line an artifact, so that branches merge as a union.

An artifact is named by its path: results/runs/<id>, results/records/<victim>/<suite>.npz,
data/<set>/<digest>. A name stands for one content; of two lines the first recorded one wins.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store import sums
from pipeline.store.names import is_artifact, is_file_name, is_sha256

MANIFEST = Path("results/manifest.jsonl")
RUNS = Path("results/runs")


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is known of one recorded artifact; `rests_on` is what it was made from."""

    artifact: str
    sha256: dict[str, str]  # by file below the artifact's folder, or by the file's own name
    bytes: int
    rests_on: dict[str, str]  # sha256 of weights and of transfer sets, by artifact
    plan: str  # digest of the params.yaml it was recorded under
    date: str
    host: str  # class of machine
    versions: dict[str, str]
    seconds: float

    @property
    def rank(self) -> tuple[str, str]:
        """Order among lines of one artifact: the first recorded wins."""
        return self.date, json.dumps(self.sha256, sort_keys=True)

    @property
    def is_raw(self) -> bool:
        """Whether it lists a data set's files as fetched."""
        return self.artifact.startswith("data/raw/")

    def text(self) -> str:
        """The line, without its end."""
        return json.dumps(asdict(self), sort_keys=True)


Manifest = Mapping[str, Line]


def parse(text: str, where: Path = MANIFEST) -> list[Line]:
    """All lines of a manifest; raises UserError on what is none."""
    lines = []
    for number, raw in enumerate(text.splitlines(), start=1):
        if raw.startswith(("<<<<<<<", "=======", ">>>>>>>")):
            raise UserError(
                f"{where}:{number}: has a merge conflict; run `git merge --abort`, `make setup`, "
                "then `make merge BRANCH=...`"
            )
        try:
            entry = json.loads(raw)
        except (ValueError, RecursionError):
            entry = None

        wrong = _wrong(entry)
        if wrong:
            remedy = f"git checkout {where}" if where == MANIFEST else "correct it on that branch"
            raise UserError(f"{where}:{number}: is no line of a manifest ({wrong}); {remedy}")
        lines.append(Line(**entry))
    return lines


def _wrong(entry: Any) -> str:
    """Why JSON is no line, empty when it is one: keys, types, names, sums, ranges."""
    if not isinstance(entry, dict) or set(entry) != {f.name for f in fields(Line)}:
        return "other keys than a line has"
    for field in fields(Line):
        if not _fits(entry[field.name], field.type):
            return f"{field.name} is of another type"

    if not is_artifact(entry["artifact"]):
        return f"{entry['artifact']!r:.100} names no artifact"
    stated = [*entry["sha256"].values(), *entry["rests_on"].values()]
    if not entry["sha256"] or not all(map(is_sha256, stated)):
        return "a sum is no sha256"
    if not all(map(is_file_name, entry["sha256"])):
        return "a sum is of a file elsewhere"
    if not all(map(is_artifact, entry["rests_on"])):
        return "rests_on names no artifact"

    if entry["bytes"] < 0 or not 0 <= entry["seconds"] < math.inf:
        return "bytes or seconds out of range"
    return "" if _is_date(entry["date"]) else "date is no time with its zone"


def _fits(value: Any, kind: Any) -> bool:
    if kind == dict[str, str]:
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    kinds = (int, float) if kind is float else (kind,)
    # JSON's true is an int to Python.
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_date(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def winners(lines: Iterable[Line]) -> dict[str, Line]:
    """The line that counts of each artifact: the first, of raw files the last.

    Raw files have no digest in their name: a corrected file of labels replaces the old one there.
    """
    ordered = sorted(lines, key=lambda entry: entry.rank)
    # Reversed: of equal keys the last one set stays, which is then the first recorded.
    won = {line.artifact: line for line in reversed(ordered)}
    won |= {line.artifact: line for line in ordered if line.is_raw}
    return dict(sorted(won.items()))


def without_orphans(won: Manifest) -> dict[str, Line]:
    """Winners that rest on winners alone: what rests on a loser's bytes is to be made again.

    What was never recorded may be rested on; what was, and does not count now, may not.
    """
    kept = dict(won)
    # What rests on an orphan is one too: repeat until none falls.
    while True:
        orphans = [name for name, line in kept.items() if not _rests_well(line, won, kept)]
        if not orphans:
            return kept
        for name in orphans:
            del kept[name]


def _rests_well(line: Line, won: Manifest, kept: Manifest) -> bool:
    return all(
        name in kept and sha256 in kept[name].sha256.values()
        for name, sha256 in line.rests_on.items()
        if name in won
    )


def read() -> dict[str, Line]:
    """The lines that count, by artifact; empty when nothing was ever recorded."""
    if not MANIFEST.exists():
        return {}

    stat = MANIFEST.stat()
    # A plan asks for every artifact: parsed again only when the file has changed.
    return _read(str(MANIFEST.resolve()), stat.st_mtime_ns, stat.st_size)


@cache
def _read(path: str, _mtime: int, _size: int) -> dict[str, Line]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{MANIFEST}: holds bytes that are no text; git checkout it") from None
    return without_orphans(winners(parse(text)))


def verify(path: Path) -> None:
    """Raise UserError when a file of an artifact has other bytes than it should have.

    That is the recorded sum; of what was never recorded, the one that its job wrote beside it.
    """
    if not path.exists():
        return  # who reads it says so
    line = line_of(path)
    if line is None:
        sums.check_stated(path)
        return

    name = path.name
    if name not in line.sha256:
        raise UserError(f"{path}: is no file of the recorded {line.artifact}; delete it")
    if sums.sum_of(path) != line.sha256[name]:
        raise UserError(
            f"{path}: its sha256 is not the one {MANIFEST} lists, so it was not opened; "
            f"delete {line.artifact} and run `dvc pull {line.artifact}` (if that gives the same "
            f"file, the cache or the remote holds a wrong one: ask who recorded it)"
        )


def line_of(path: Path) -> Line | None:
    """The line of the artifact that a file belongs to."""
    listed = read()
    return listed.get(path.as_posix()) or listed.get(path.parent.as_posix())


def weights_of(run: str, listed: Manifest) -> dict[str, str] | None:
    """sha256 by file of a recorded run, or None."""
    line = listed.get(str(RUNS / run))
    return line.sha256 if line else None


def check_rests_on(path: Path, rests_on: Mapping[str, str]) -> None:
    """Raise UserError when an artifact was made from other bytes than the recorded ones."""
    listed = read()
    for name, sha256 in rests_on.items():
        if name in listed and sha256 not in listed[name].sha256.values():
            raise UserError(
                f"{path}: was made from other weights or images of {name} than {MANIFEST} lists; "
                "delete it and run again: the first recorded ones count"
            )
