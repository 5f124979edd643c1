"""Rows and columns of any table, found by words as the files of data/claims/ say them."""

from pathlib import Path

from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.graph.column_names import COSTS
from pipeline.tables.rows import Row, Tabulation

TRAINING = "training"  # among what a scale cuts, beside its attacks


class Tables:
    """The tables that a file of sentences names; each is read once.

    A row is named by words: its entry, and x5, data set, arch or axis where these are needed to
    tell it from others.
    """

    def __init__(self, plan: Plan, file: Path) -> None:
        self.plan, self.file = plan, file
        self._tables: dict[str, Tabulation] = {}

    def tabulation(self, table: str) -> Tabulation:
        """The rows of a table, those still missing as such."""
        if table not in self._tables:
            self._tables[table] = Tabulation(self.plan, self.plan.table(table), partial=True)
        return self._tables[table]

    def shows(self, table: str, column: str) -> bool:
        """Whether the table has this accuracy or cost."""
        tabulation = self.tabulation(table)
        return (
            column in tabulation.accuracies
            or column in COSTS
            and column in tabulation.table.columns
        )

    def row(self, table: str, words: str) -> Row | None:
        """The one row of a table that all the words fit."""
        if table not in self.plan.tables:
            return None
        rows = [r for r in self.tabulation(table).rows if set(words.split()) <= _list_words(r)]
        if len(rows) > 1:
            raise UserError(f"{self.file}: {words!r} fits several rows of {table}: say more")
        return rows[0] if rows else None

    def verdicts(self, table: str, column: str, text: str) -> list[Verdicts]:
        """Of a row, or of one minus another (`a - b`), one vector a seed."""
        rows = [self.row(table, part) for part in text.split(" - ")]
        sides = [row.verdicts[column] for row in rows if row]
        return sides[0] if len(sides) == 1 else [a - b for a, b in zip(*sides, strict=True)]

    def departures(self, table: str, text: str) -> list[str]:
        """What stands in for the data set and arch of these rows."""
        entries = self.plan.entries
        stand_ins = []
        for row in (self.row(table, part) for part in text.split(" - ")):
            for cell in row.cells[:1] if row else ():
                used, asked = entries.stand_in(cell.setting.dataset)[0], cell.setting.dataset
                pairs = [(used, asked)] if used != asked else []
                pairs += cell.victim.stood_in if cell.victim else ()
                stand_ins += [f"{used} for {asked}" for used, asked in pairs]
        return list(dict.fromkeys(stand_ins))

    def is_cut(self, table: str, column: str, text: str) -> bool:
        """Whether the scale cuts these rows' training, or an attack behind a column."""
        tabulation = self.tabulation(table)
        rows = [self.row(table, part) for part in text.split(" - ")]
        return self._is_trained_less(tabulation) or any(
            tabulation.is_cut(row.cells[0], column) for row in rows if row
        )

    def _is_trained_less(self, tabulation: Tabulation) -> bool:
        return bool(self.plan.entries.recipe_cut(tabulation.table.spec["entry"]["recipe"]))

    def cuts(self, table: str) -> list[str]:
        """What the scale cuts of a table's training and attacks."""
        tabulation = self.tabulation(table)
        return [*([TRAINING] if self._is_trained_less(tabulation) else []), *tabulation.cuts]


def sides_of(text: str) -> list[str]:
    """What stands for the one side and for the other: `a | b`, or `a` for both."""
    parts = text.split(" | ")
    return parts if len(parts) == 2 else parts * 2


def _list_words(row: Row) -> set[str]:
    """All that may be said of a row, as the papers' names have it."""
    cell = row.cells[0]
    axes = {f"{k}={v}" for k, v in cell.setting.overrides}
    return {cell.row, f"x{cell.members}", cell.setting.dataset, cell.setting.arch, *axes}
