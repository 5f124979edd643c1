"""The manifest: what was recorded, one JSON line an artifact, so that branches merge as a union.

An artifact is named by its path: results/runs/<id>, results/records/<victim>/<suite>.npz,
data/<set>/<digest>. A name stands for one content; of two lines the first recorded one wins.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

MANIFEST = Path("results/manifest.jsonl")
RUNS = Path("results/runs")
HOURS = 3600


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is known of one recorded artifact; `rests_on` is weights it was made from, by run."""

    artifact: str
    sha256: dict[str, str]  # by file below the artifact's folder, or by the file's own name
    bytes: int
    rests_on: dict[str, str]
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
        except ValueError:
            entry = None
        if not _is_line(entry):
            raise UserError(f"{where}:{number}: is no line of a manifest; git checkout {where}")
        lines.append(Line(**entry))
    return lines


def _is_line(entry: Any) -> bool:
    """Whether JSON has a line's keys, each with a value of its type."""
    return (
        isinstance(entry, dict)
        and set(entry) == {f.name for f in fields(Line)}
        and all(_fits(entry[f.name], f.type) for f in fields(Line))
    )


def _fits(value: Any, kind: Any) -> bool:
    if kind == dict[str, str]:
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    kinds = (int, float) if kind is float else (kind,)
    return isinstance(value, kinds) and not isinstance(value, bool)


def winners(lines: Iterable[Line]) -> dict[str, Line]:
    """The line that counts of each artifact: the first, of raw files the last.

    Raw files have no digest in their name: a corrected file of labels replaces the old one there.
    """
    ordered = sorted(lines, key=lambda entry: entry.rank)
    won = {line.artifact: line for line in reversed(ordered)}
    won |= {line.artifact: line for line in ordered if line.is_raw}
    return dict(sorted(won.items()))


def without_orphans(won: Manifest) -> dict[str, Line]:
    """Winners that rest on winners' weights only: who rests on a loser's is to be made again."""
    kept = dict(won)
    while True:
        orphans = [name for name, line in kept.items() if not _rests_well(line, kept)]
        if not orphans:
            return kept
        for name in orphans:
            del kept[name]


def _rests_well(line: Line, kept: Manifest) -> bool:
    recorded = {run: kept[str(RUNS / run)] for run in line.rests_on if str(RUNS / run) in kept}
    return all(line.rests_on[run] in other.sha256.values() for run, other in recorded.items())


def read() -> dict[str, Line]:
    """The lines that count, by artifact; empty when nothing was ever recorded."""
    if not MANIFEST.exists():
        return {}
    stat = MANIFEST.stat()
    return _read(str(MANIFEST.resolve()), stat.st_mtime_ns, stat.st_size)


@cache
def _read(path: str, _mtime: int, _size: int) -> dict[str, Line]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{MANIFEST}: holds bytes that are no text; git checkout it") from None
    return without_orphans(winners(parse(text)))


def verify(path: Path) -> None:
    """Raise UserError when a file of a recorded artifact has other bytes than were recorded.

    What was never recorded passes: it was made here.
    """
    line = line_of(path)
    if line is None:
        return
    name = path.name
    if name not in line.sha256:
        raise UserError(f"{path}: is no file of the recorded {line.artifact}; delete it")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != line.sha256[name]:
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


def check_rests_on(path: Path, weights: Mapping[str, Any]) -> None:
    """Raise UserError when a record was made from other weights than the recorded ones."""
    listed = read()
    for run, sha256 in weights.items():
        recorded = weights_of(run, listed)
        if recorded is not None and sha256 not in recorded.values():
            raise UserError(
                f"{path}: was made from other weights of {run} than {MANIFEST} lists; delete it "
                "and run again: the first recorded weights count"
            )
