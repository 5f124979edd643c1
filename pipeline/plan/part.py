"""A job's own part of the plan its workflow started with: what it names, and what that rests on.

The master names every artifact once and lays them beside the frozen copy, one a row; a job reads
its own rows instead of naming all again. It is a file of this folder's user for their own jobs, as
resume states are: never shared, and made anew by every master.
"""

import hashlib
import io
import json
import os
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from pipeline.plan.graph.artifacts import Record, Run, TransferSet, Victim
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.targets import Figure, Table
from pipeline.plan.params.values import Entry

NAME = "plan.sqlite"
PATHS = (("pathlib", "PosixPath"), ("pathlib._local", "PosixPath"))  # the latter: Python 3.13
Target = Table | Figure
Artifact = Run | Record | TransferSet | Target
Keys = list[str]
Row = tuple[str, str, bytes, str]  # id, ids of what it needs, the artifact, a sum of all three


def write(copy: Path, graph: Graph, targets: Iterable[tuple[Target, Keys]]) -> None:
    """Lay all artifacts into a frozen copy, each under its id and with what it needs."""
    part = copy / f".{NAME}.{os.getpid()}"
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as file, file:
        file.execute("PRAGMA synchronous = OFF")  # renamed when whole, made anew by every master
        columns = "id TEXT PRIMARY KEY, needs TEXT, artifact BLOB, sum TEXT"
        file.execute(f"CREATE TABLE artifacts ({columns})")
        file.executemany("INSERT INTO artifacts VALUES (?, ?, ?, ?)", _rows(graph, targets))
        params = _summed("", "[]", json.dumps(graph.entries.params).encode())
        file.execute("INSERT INTO artifacts VALUES (?, ?, ?, ?)", params)

    part.replace(copy / NAME)


def _rows(graph: Graph, targets: Iterable[tuple[Target, Keys]]) -> Iterator[Row]:
    followed: dict[str, Keys] = {}  # averages by the training whose epochs they take
    for run in graph.runs.values():
        if run.stage == "average":
            followed.setdefault(run.parents[0], []).append(run.id)
    for run in graph.runs.values():
        yield _row(run.id, [*run.parents, *followed.get(run.id, ())], run)

    for record in graph.records.values():
        yield _row(record.id, [*_runs(record.victim), *record.sets, *_before(record)], record)
    for made in graph.sets.values():
        yield _row(made.id, _runs(made.surrogate), made)
    for target, needs in targets:
        yield _row(target.name, needs, target)


def _before(record: Record) -> Keys:
    return [record.before] if record.before else []


def _row(id: str, needs: Keys, artifact: Artifact) -> Row:
    return _summed(id, json.dumps(needs), pickle.dumps(artifact))


def _summed(id: str, needs: str, content: bytes) -> Row:
    """A row with its sum: SQLite itself sees no bit that rots."""
    whole = f"{id} {needs} ".encode() + content
    return id, needs, content, hashlib.sha256(whole).hexdigest()


class _Artifacts(pickle.Unpickler):
    """Makes artifacts of the plan and paths, and nothing else: a row can run no code."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of the plan, or of paths; a dotted name would reach what its modules import."""
        if (module, name) in PATHS:
            return super().find_class(module, name)
        if module.startswith("pipeline.plan.") and "." not in name:
            found = super().find_class(module, name)
            if is_dataclass(found) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a plan")


def _runs(victim: Victim) -> Keys:
    return [element.run for element in victim.elements]


def read(copy: Path, names: Iterable[str]) -> tuple[Entry, list[Artifact]] | None:
    """params.yaml, and the artifacts of these names with all they rest on.

    A name that is no artifact's is passed over. None where a copy holds no artifacts, or where
    what it holds of these is damaged: the whole plan beside it says the same.
    """
    path = (copy / NAME).resolve()
    if not path.exists():
        return None
    try:
        # immutable: no locks, which some network file systems do not have
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as file:
            params = _ask(file, "")
            artifacts = _follow(file, names)
    except (sqlite3.DatabaseError, pickle.UnpicklingError, _Damaged):
        print(f"{path}: is damaged, so the whole plan is read", flush=True)
        return None
    return (json.loads(params[2]), artifacts) if params else None


class _Damaged(Exception):
    """A row is not as it was written, or lacks what it needs."""


def _follow(file: sqlite3.Connection, names: Iterable[str]) -> list[Artifact]:
    """The artifacts of some names, and all that they need."""
    artifacts: dict[str, Artifact] = {}
    wanted = [(name, False) for name in names]
    while wanted:
        id, is_needed = wanted.pop()
        row = None if id in artifacts else _ask(file, id)
        if row:
            artifacts[id] = _Artifacts(io.BytesIO(row[2])).load()
            wanted += [(needed, True) for needed in json.loads(row[1])]
        elif is_needed and id not in artifacts:
            raise _Damaged
    return list(artifacts.values())


def _ask(file: sqlite3.Connection, id: str) -> Row | None:
    """The row of an id; raises _Damaged when it is not as it was written."""
    row: Row | None = file.execute("SELECT * FROM artifacts WHERE id = ?", (id,)).fetchone()
    if row and not (isinstance(row[2], bytes) and row == _summed(*row[:3])):
        raise _Damaged
    return row
