"""The plan: params.yaml, papers/ -> tables, figures -> victims -> runs -> jobs, with ids and paths.

Standard library and PyYAML only, so that the workflow's graph parses fast; torch is never
imported here.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeVar

from pipeline.errors import UserError
from pipeline.plan import frozen, part
from pipeline.plan.artifact import Dataset
from pipeline.plan.graph import figures, table_entries, tables
from pipeline.plan.graph.artifacts import Element, Record, Run, Snapshots, TransferSet, Victim
from pipeline.plan.graph.audit import audit
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.suites import name_record
from pipeline.plan.graph.targets import Artifact, Figure, Table, Target, walk
from pipeline.plan.graph.victims import name_victim
from pipeline.plan.params import values
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.words import nearest, unique

T = TypeVar("T")
# whose ids are too long to type: a beginning will do, as in git
UNTYPED = ("run", "record", "transfer set")

__all__ = [
    "Artifact",
    "Dataset",
    "Element",
    "Figure",
    "Plan",
    "Record",
    "Run",
    "Snapshots",
    "Table",
    "Target",
    "TransferSet",
    "Victim",
    "load_part",
    "load_plan",
]


class Plan:
    """Everything params.yaml asks for at its scale."""

    def __init__(self, params: values.Entry) -> None:
        self.entries = Entries(params)
        self.graph = Graph(self.entries)
        audit(self.graph)

        self.tables: dict[str, Table] = {}
        for name in self.entries.section("tables"):
            self._add(tables.build(self.graph, name))
            if table_entries.is_cut(self.entries, name):
                self._add(tables.build(self.graph, name, all_rows=True))

        self.figures: dict[str, Figure] = {}
        for name in self.entries.section("figures"):
            if name in self.tables:
                raise UserError(f"params.yaml: figures.{name}: is a table too; rename one")
            self.figures[name] = figures.build(self.graph, name)

    @classmethod
    def of(
        cls, params: values.Entry, artifacts: Iterable[Run | Record | TransferSet | Target]
    ) -> Self:
        """A plan that knows these artifacts alone, named by a whole one."""
        plan = cls.__new__(cls)
        plan.entries = Entries(params)
        plan.graph = Graph(plan.entries)
        plan.tables, plan.figures = {}, {}
        for artifact in artifacts:
            if isinstance(artifact, Run):
                plan.graph.runs[artifact.id] = artifact
            elif isinstance(artifact, Record):
                plan.graph.records[artifact.id] = artifact
            elif isinstance(artifact, TransferSet):
                plan.graph.sets[artifact.id] = artifact
            elif isinstance(artifact, Figure):
                plan.figures[artifact.name] = artifact
            elif isinstance(artifact, Table):
                plan.tables[artifact.name] = artifact
        return plan

    def _add(self, table: Table) -> None:
        if table.name in self.tables:
            raise UserError(f"params.yaml: tables.{table.name}: is taken by another; rename one")
        self.tables[table.name] = table

    @property
    def scale(self) -> str:
        """Name of the scale."""
        return self.entries.scale_name

    @property
    def mirror(self) -> str | None:
        """Where raw files come from instead of their official address."""
        return self.entries.mirror

    def dataset(self, name: str) -> Dataset:
        """A data set by its entry's name."""
        return self.entries.dataset(name)

    def run(self, id: str) -> Run:
        """A run by its id, or a unique beginning; raises UserError when there is none."""
        return self._find(self.graph.runs, id, "run")

    def record(self, id: str) -> Record:
        """A record by its id."""
        return self._find(self.graph.records, id, "record")

    def set(self, id: str) -> TransferSet:
        """A transfer set by its id."""
        return self._find(self.graph.sets, id, "transfer set")

    def table(self, target: str) -> Table:
        """A table by its file or name: results/table1.csv, table1, aute_table2."""
        return self._find(self.tables, _name_of(target), "table")

    def figure(self, target: str) -> Figure:
        """A figure by one of its files or its name: results/aute/fig4.png, aute_fig4."""
        return self._find(self.figures, _name_of(target), "figure")

    def target(self, name: str) -> Table | Figure:
        """A table or a figure by its file or name."""
        return self._find(self.targets, _name_of(name), "table or figure")

    @property
    def targets(self) -> dict[str, Table | Figure]:
        """Tables and figures by name."""
        return {**self.tables, **self.figures}

    def _find(self, known: dict[str, T], name: str, what: str) -> T:
        if name not in known:
            begun = unique(name, known) if what in UNTYPED and "-" in name else None
            if begun is not None:
                return known[begun]
            hint = nearest(name, known)
            raise UserError(
                f"params.yaml (scale {self.scale}): no {what} {name!r}{hint}; "
                "see `python -m pipeline.plan`"
            )
        return known[name]

    def name_victim(self, row: str, setting: Setting) -> Victim:
        """The victim that a row is in a setting, which no table need show."""
        return name_victim(self.graph, row, setting)

    def name_record(self, victim: Victim, suite: str, setting: Setting, images: int) -> Record:
        """The record of a suite on a victim, which no table need show."""
        return name_record(self.graph, victim, suite, setting, images)

    def snapshots_from(self, id: str) -> int | None:
        """First epoch of a training that some average needs, or None."""
        firsts = [
            run.spec["average"]["fields"]["start"]
            for run in self.graph.runs.values()
            if run.stage == "average"
            and run.parents == (id,)
            and "start" in run.spec["average"]["fields"]
        ]
        return min(firsts, default=None)

    def training(self, run: Run) -> Run:
        """The training behind a run: an average's is its trajectory's."""
        while run.stage == "average":
            run = self.run(run.parents[0])
        return run

    def lay(self, copy: Path) -> None:
        """Lay all artifacts beside a frozen copy, for `load_part`."""
        needs = [(t, [a.id for kind in self.needs(t) for a in kind]) for t in self.targets.values()]
        part.write(copy, self.graph, needs)

    def needs(self, target: Table | Figure) -> tuple[list[Record], list[Run]]:
        """Records and runs that a table or figure rests on, parents first."""
        below = walk(self.graph, [target])
        records = [artifact for artifact in below if isinstance(artifact, Record)]
        return records, [artifact for artifact in below if isinstance(artifact, Run)]


def _name_of(target: str) -> str:
    """The name of a target's file; of a name, itself."""
    path = target.removeprefix("./").removeprefix("results/")
    return re.sub(r"\.(csv|md|tex|png|pdf)$", "", path).replace("/", "_")


def load_part(*given: str) -> Plan:
    """What a job needs of its workflow's plan, by ids or files of runs, records, sets or targets.

    The whole plan where no workflow laid its artifacts down: by hand.
    """
    names = [n for g in given for n in (*_ids_of(g), _name_of(g))]
    found = part.read(frozen.base(), names) if frozen.VARIABLE in os.environ else None
    return Plan.of(*found) if found else load_plan()


def _ids_of(given: str) -> tuple[str, str]:
    """What a record's file or id, or another artifact's, may be called."""
    return record_id(given), Path(given).name.removesuffix(".safetensors")


def record_id(given: str) -> str:
    """The id of a record that is given by its id or by its file, wherever that is seen from."""
    file = Path(given)
    return "/".join(file.with_suffix("").parts[-2:]) if file.suffix == ".npz" else given


def load_plan(path: str | Path | None = None) -> Plan:
    """The plan of a params file and its pages; raises UserError naming file and key."""
    from pipeline.plan.params import reader

    file = Path(path) if path else frozen.params_path()
    params = reader.read(file)
    try:
        return Plan(params)
    except UserError as error:
        raise UserError(reader.located(str(error), file)) from None
