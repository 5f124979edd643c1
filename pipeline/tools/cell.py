"""One row of a table, at one seed or all: what it needs, and the command that makes just that."""

import os
import shlex
import shutil
from dataclasses import replace

from pipeline.errors import UserError
from pipeline.plan import Plan, Table
from pipeline.plan.graph.targets import Cell, label
from pipeline.tools.rows import find_cells


def cut_to_row(
    plan: Plan, table: Table, row: str, members: int | None, seed: int | None
) -> tuple[Table, list[str]]:
    """The table with the cells of a row alone, and the records that these need."""
    within = table
    # A label is the whole table's: of fewer cells it would be another.
    if labelled := [c for c in table.cells if label(c, table.cells) == row]:
        within, row = replace(table, cells=tuple(labelled)), labelled[0].row
    cells = _match_cells(within, row, members, seed)
    row_cells = find_cells(plan, replace(table, cells=tuple(cells)), row)
    records = dict.fromkeys(r.path.as_posix() for cell in row_cells for r in cell.records.values())
    return replace(table, cells=tuple(row_cells)), list(records)


def _match_cells(table: Table, row: str, members: int | None, seed: int | None) -> list[Cell]:
    """Cells with that many members and that seed; raises UserError naming what there is."""
    cells = list(table.cells)
    for what, asked in (("members", members), ("seed", seed)):
        known = sorted({getattr(c, what) for c in cells if c.row == row} or {asked})
        if asked is not None and asked not in known:
            raise UserError(f"{table.path}: {row}: no {what} {asked} at this scale, but {known}")
        cells = [c for c in cells if asked is None or getattr(c, what) == asked]
    return cells


def command(records: list[str], arguments: list[str]) -> list[str]:
    """Snakemake's command for these records; on every core unless told otherwise."""
    return ["snakemake", *(arguments or ["--cores", "all"]), "--", *records]


def run(records: list[str], arguments: list[str]) -> None:
    """Hand the process over to Snakemake."""
    asked = command(records, arguments)
    if shutil.which(asked[0]) is None:
        raise UserError("snakemake: is not on the PATH; activate .venv, or type `make setup`")
    print(f"$ {shlex.join(asked)}", flush=True)
    os.execvp(asked[0], asked)
