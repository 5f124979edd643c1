"""Tables and figures: what people ask for, and everything that it rests on."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pipeline.plan.artifact import Files
from pipeline.plan.graph.artifacts import Book, Part, Record, Victim
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.values import Entry
from pipeline.store import receipts

NO_NAME = re.compile(r"[^A-Za-z0-9_.=-]+")  # what no file's name should hold


@dataclass(frozen=True)
class Cell:
    """One row of a table at one seed; no victim and no records where it `lacks` something."""

    row: str
    setting: Setting
    members: int
    seed: int
    victim: Victim | None
    records: dict[str, Record]
    reference: str | None  # id of the victim to compare with
    lacks: str = ""  # planned: the method; needs weights, not at this scale: the user's file


@dataclass(frozen=True, kw_only=True)
class Target(Files):
    """What is made of records and weights and has a human name; its receipt holds `digest`."""

    name: str
    path: Path
    cells: tuple[Cell, ...]
    spec: Entry
    digest: str

    @property
    def id(self) -> str:
        """Its name."""
        return self.name

    @property
    def records(self) -> tuple[Record, ...]:
        """The records of its cells, each once."""
        return tuple({r.id: r for cell in self.cells for r in cell.records.values()}.values())

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """The records."""
        return self.records

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those that hold nothing else."""
        return ()

    def is_here(self) -> bool:
        """Whether its files were made from exactly this plan, and are as they were made."""
        return receipts.is_of(self.path.with_suffix(".json"), self.digest, self.outputs)


@dataclass(frozen=True, kw_only=True)
class Table(Target):
    """A table as this plan builds it."""

    columns: tuple[str, ...]
    suites: dict[str, dict[str, str]]  # entries of their attacks, by the name in columns
    stage: ClassVar[str] = "tabulate"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The .csv, its texts and pictures, what all of them rest on, and each row's metrics."""
        suffixes = (".md", ".tex", ".json", ".png", ".pdf")
        beside = (self.path.with_suffix(suffix) for suffix in suffixes)
        return (self.path, *beside, *self.metrics.values())

    @property
    def folders(self) -> tuple[Path, ...]:
        """That of the metrics."""
        return (self.folder,)

    @property
    def folder(self) -> Path:
        """Its numbers alone, which `dvc metrics` shows a file a line."""
        return self.path.parent / "metrics" / self.path.stem

    @cached_property
    def metrics(self) -> dict[str, Path]:
        """The file of each row's numbers, by label."""
        told = _find_axes(self.cells)
        labels = [_spell(cell, told) for cell in self.cells]
        return {name: self.folder / f"{NO_NAME.sub('-', name)}.json" for name in labels}

    def is_here(self) -> bool:
        """Whether its files are as they were made from this plan, and no row more is beside."""
        return super().is_here() and not self.strays()

    def strays(self) -> list[Path]:
        """Files of rows that it had once."""
        return sorted(set(self.folder.glob("*")) - set(self.metrics.values()))


@dataclass(frozen=True, kw_only=True)
class Figure(Target):
    """A picture as this plan draws it; `attacks` are the specs of its own, for each cell."""

    kind: Entry  # component, fields, code
    attacks: tuple[Entry, ...]
    pool: int  # test images it may take, its table's
    reads_weights: bool

    @property
    def stage(self) -> str:
        """A job of its own where weights are read; else drawn from records at once."""
        return "figure" if self.reads_weights else "plot"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The picture, its numbers, and what they rest on."""
        return (self.path, *(self.path.with_suffix(s) for s in (".pdf", ".csv", ".json")))

    @property
    def victims(self) -> tuple[Victim, ...]:
        """Those whose weights are read to draw it."""
        shown = {c.victim.id: c.victim for c in self.cells if c.victim}
        return tuple(shown.values()) if self.reads_weights else ()

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """The records, and the victims whose weights are read."""
        return (*self.records, *(part for v in self.victims for part in v.inputs(book)))

    @property
    def stem(self) -> str:
        """Its files without results/ and suffix, as the rules name it."""
        return self.path.with_suffix("").relative_to("results").as_posix()


Artifact = Part | Table | Figure


def walk(
    book: Book,
    artifacts: Iterable[Artifact],
    is_done: Callable[[Artifact], bool] = lambda artifact: False,
) -> list[Artifact]:
    """Artifacts and all that they are made of, each once, inputs before what they are for.

    What `is_done` is not among them, nor what only it is made of.
    """
    seen: set[tuple[str, str]] = set()
    walked: list[Artifact] = []

    def visit(artifact: Artifact) -> None:
        key = (artifact.stage, artifact.id)
        if key in seen:
            return
        seen.add(key)
        if not is_done(artifact):
            for part in artifact.inputs(book):
                visit(part)
            walked.append(artifact)

    for artifact in artifacts:
        visit(artifact)
    return walked


def label(cell: Cell, cells: Sequence[Cell], without: str = "") -> str:
    """The row's name, and whatever else tells it from the others; `without` one axis."""
    return _spell(cell, _find_axes(cells), without)


def _find_axes(cells: Sequence[Cell]) -> set[str]:
    """What rows differ in: their data sets; within one, their members or arch."""
    datasets = {c.setting.dataset for c in cells}
    axes = {"dataset"} if len(datasets) > 1 else set()
    for key in ("members", "arch"):
        pairs = {(c.setting.dataset, getattr(c.setting, key)) for c in cells}
        axes |= {key} if len(pairs) > len(datasets) else set()
    return axes


def _spell(cell: Cell, axes: Collection[str], without: str = "") -> str:
    setting = cell.setting
    parts = [cell.row]
    parts += [f"x{cell.members}"] if "members" in axes and without != "members" else []
    parts += [setting.dataset] if "dataset" in axes else []
    parts += [setting.arch] if "arch" in axes else []
    parts += [f"{k}={v}" for k, v in setting.overrides if k != without]
    return " ".join(parts)
