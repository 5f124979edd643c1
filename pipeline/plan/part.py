"""A job's own part of the plan its workflow started with: what it names, and what that rests on.

The master names every artifact once and lays them beside the frozen copy, one a row; a job reads
its own rows instead of naming all again. It is a file of this folder's user for their own jobs, as
resume states are: never shared, and made anew by every master.
"""

import io
import json
import os
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.plan.graph.artifacts import Record, Run, TransferSet, Victim
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.targets import Figure, Table
from pipeline.plan.params.values import Entry

NAME = "plan.sqlite"
Target = Table | Figure
Artifact = Run | Record | TransferSet | Target
Keys = list[str]


def write(copy: Path, graph: Graph, targets: Iterable[tuple[Target, Keys]]) -> None:
    """Lay all artifacts into a frozen copy, each under its id and with what it needs."""
    part = copy / f".{NAME}.{os.getpid()}"
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as file, file:
        file.execute("PRAGMA synchronous = OFF")  # renamed when whole, made anew by every master
        file.execute("CREATE TABLE artifacts (id TEXT PRIMARY KEY, needs TEXT, artifact BLOB)")
        file.executemany("INSERT INTO artifacts VALUES (?, ?, ?)", _rows(graph, targets))
        params = json.dumps(graph.entries.params).encode()
        file.execute("INSERT INTO artifacts VALUES ('', '[]', ?)", (params,))
    part.replace(copy / NAME)


def _rows(graph: Graph, targets: Iterable[tuple[Target, Keys]]) -> Iterator[tuple[str, str, bytes]]:
    followed: dict[str, Keys] = {}  # averages by the training whose epochs they take
    for run in graph.runs.values():
        if run.stage == "average":
            followed.setdefault(run.parents[0], []).append(run.id)
    for run in graph.runs.values():
        yield _row(run.id, [*run.parents, *followed.get(run.id, ())], run)
    for record in graph.records.values():
        yield _row(record.id, [*_runs(record.victim), *record.sets], record)
    for made in graph.sets.values():
        yield _row(made.id, _runs(made.surrogate), made)
    for target, needs in targets:
        yield _row(target.name, needs, target)


def _row(id: str, needs: Keys, artifact: Artifact) -> tuple[str, str, bytes]:
    return id, json.dumps(needs), pickle.dumps(artifact)


class _Artifacts(pickle.Unpickler):
    """Makes artifacts of the plan and paths, and nothing else: a row can run no code."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of the plan, or of paths."""
        if module.startswith("pipeline.plan.") or (module, name) == ("pathlib", "PosixPath"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a plan")


def _runs(victim: Victim) -> Keys:
    return [element.run for element in victim.elements]


def read(copy: Path, names: Iterable[str]) -> tuple[Entry, list[Artifact]] | None:
    """params.yaml, and the artifacts of these names with all they rest on.

    A name that is no artifact's is passed over. None where a copy holds no artifacts.
    """
    path = (copy / NAME).resolve()
    if not path.exists():
        return None
    found: dict[str, Artifact] = {}
    # immutable: no locks, which some network file systems do not have
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as file:

        def ask(id: str) -> tuple[str, bytes] | None:
            query = "SELECT needs, artifact FROM artifacts WHERE id = ?"
            row: tuple[str, bytes] | None = file.execute(query, (id,)).fetchone()
            return row

        wanted = list(names)
        while wanted:
            id = wanted.pop()
            row = None if id in found else ask(id)
            if row:
                found[id] = _Artifacts(io.BytesIO(row[1])).load()
                wanted += json.loads(row[0])
        params = ask("")
    return (json.loads(params[1]), list(found.values())) if params else None
