"""The papers' sentences, decided by our records and by the papers' own cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core import intervals
from pipeline.errors import UserError
from pipeline.plan import Plan, presented
from pipeline.plan.graph.column_names import COSTS
from pipeline.plan.params import values
from pipeline.tables.find import Tables, sides_of
from pipeline.tables.markdown import points_of
from pipeline.tables.reported import list_papers, rows_of
from pipeline.tables.rows import Row

OURS_FILE = presented.OURS
OURS = ("paper", "kind", "sentence", "table", "column", "better", "worse", "relation", "points")
NUMBERS = frozenset(("points", "stated"))  # columns of all these files that hold one
RELATIONS = ("above", "at_least", "within")
# a data set or arch stands in, or training or attack is cut: the difference is shown, no verdict
STOOD_IN = "not at this scale"
UNDECIDED = "cannot tell at this scale"
PRINTED = (
    "paper", "kind", "where", "sentence", "quote", "relation", "stated", "left", "right", "failure"
)  # fmt: skip
KINDS = ("paper", "audit")  # a sentence of the paper, or a question of ours
# what it means that a sentence fails: its number or order is not the table's; what cannot be, be
# the table right or wrong; what can be, of a stronger attack that leaves more; it was hedged ("in
# most cases"); another reading of it holds
FAILURES = ("contradicted", "impossible", "unlikely", "exception", "by one reading")
ABOUT = 0.5  # points: what `about` a number of up to 10 allows, a twentieth of larger ones


def read_claims(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Lines of a file of sentences; raises UserError where its columns are not `columns`."""
    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (FileNotFoundError, ValueError) as error:  # no text, no columns, lines of other lengths
        raise UserError(f"{path}: cannot be read ({str(error).strip()})") from error
    # of lines that are longer than their names, pandas takes the first cells for the lines' names
    if tuple(frame.columns) != columns or not isinstance(frame.index, pd.RangeIndex):
        raise UserError(f"{path}: columns must be {', '.join(columns)}")

    lines = _read_lines(frame)
    for number, line in enumerate(lines, start=2):  # after the line of names
        for key in NUMBERS & {*columns}:
            _check_number(line[key], f"{path}: line {number}: {key}")
    return lines


def _check_number(text: str, where: str) -> None:
    try:
        float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is no number") from None


def _read_lines(frame: pd.DataFrame) -> list[dict[str, str]]:
    return [{str(k): str(v) for k, v in line.items()} for line in frame.to_dict("records")]


class Ours:
    """Sentences about our tables, decided by paired differences.

    A side is a row, or one row minus another (`a - b`); table and column may differ by side
    (`x | y`). A row is named by words: its entry, and x5, data set, arch or axis where these are
    needed to tell it from others. Of a cost, what counts is the share the better side saves.
    """

    def __init__(self, plan: Plan) -> None:
        self.tables = Tables(plan, OURS_FILE)

    def verdict(self, claim: dict[str, str], tests: int = 1) -> tuple[str, str]:
        """agrees, does not, cannot tell, or why there is no verdict; and the difference.

        Of so many `tests` on a page, verdicts hold together (Bonferroni); the interval is 95 %.
        """
        if claim["relation"] not in RELATIONS:
            raise UserError(f"{OURS_FILE}: no relation {claim['relation']!r}")
        texts = (claim["better"], claim["worse"])
        sides = list(zip(sides_of(claim["table"]), sides_of(claim["column"]), texts, strict=True))
        rows = [
            self.tables.row(table, part) for table, _, text in sides for part in text.split(" - ")
        ]
        if None in rows or not all(self.tables.shows(table, column) for table, column, _ in sides):
            return "not in the table at this scale", ""

        unfinished = [row.status for row in rows if row and row.status != "done"]
        if unfinished:
            return unfinished[0], ""

        points = float(claim["points"])
        fits = not any(
            self.tables.departures(t, text) or self.tables.is_cut(t, c, text)
            for t, c, text in sides
        )

        if claim["column"] in COSTS:
            verdict, text = _decide_cost(claim, rows)
            return verdict if fits or not text else STOOD_IN, text

        if len(set.union(*(self._find_images(*side) for side in sides))) > 1:
            return "judged on other images", ""
        if len({len(row.cells) for row in rows if row}) > 1:
            return "judged on other seeds", ""

        better, worse = (self.tables.verdicts(*side) for side in sides)
        difference = intervals.paired(better, worse)
        text = points_of(intervals.numbers(difference))
        shown = {t: self.tables.tabulation(t).columns for t, *_ in sides}
        worst = any(shown[table].is_worst(column) for table, column, _ in sides)
        flags = {f for row in rows if row for f in row.untrusted if worst}
        if flags or not fits:
            return f"not trusted: {' '.join(sorted(flags))}" if flags else STOOD_IN, text

        if _is_one_victim(rows) and np.array_equal(better, worse):  # which needs no interval
            return _decide(claim["relation"], points, 0.0, 0.0), text

        # A sentence is about methods, of which few seeds tell nothing.
        seeds = len(better)
        bounds = difference.spread(1 - (1 - intervals.LEVEL) / tests)  # Bonferroni
        if seeds < intervals.FEWEST or bounds is None:
            return f"cannot tell from {seeds} seed{'s' if seeds > 1 else ''}", text
        low, high = (100 * bound for bound in bounds)
        return _decide(claim["relation"], points, low, high), text

    def _find_images(self, table: str, column: str, text: str) -> set[tuple[Any, ...]]:
        """The images behind a side's verdicts, which may be those of two rows."""
        rows = [self.tables.row(table, part) for part in text.split(" - ")]
        cells = [cell for row in rows if row for cell in row.cells]
        return self.tables.tabulation(table).columns.find_images(cells, column)

    def count_tests(self, claims: list[dict[str, str]]) -> int:
        """How many of these sentences an interval decides, or cannot; 1 at the least."""
        decided = ("agrees", "does not", UNDECIDED)
        accuracies = [c for c in claims if c["column"] not in COSTS]
        return max(1, sum(self.verdict(claim)[0] in decided for claim in accuracies))


def _is_one_victim(rows: list[Row | None]) -> bool:
    """Whether two rows show the same networks, answering alike, under two names."""
    shown = [[cell.victim.id if cell.victim else "" for cell in row.cells] for row in rows if row]
    return len(shown) == 2 and shown[0] == shown[1]


def _decide_cost(claim: dict[str, str], rows: list[Row | None]) -> tuple[str, str]:
    """The verdict of a cost: one number without images, so what is saved decides, with no interval;
    and what is saved."""
    column = claim["column"]
    if len(rows) > 2:
        raise UserError(f"{OURS_FILE}: {column} is of one row, not of a difference")
    less, more = (row.costs[column] for row in rows if row)
    if not less or not more:  # of an adopted net nobody knows the training
        return "cost unknown", ""
    saved = 100 * (1 - less / more)
    return _decide(claim["relation"], float(claim["points"]), saved, saved), f"{saved:.1f} % saved"


def _decide(relation: str, points: float, low: float, high: float) -> str:
    """What the interval of a difference, in points, says.

    above: more than `points`; at_least: no less; within: no further from 0 than `points`.
    """
    if relation == "within":
        agrees, contradicts = -points <= low and high <= points, low > points or high < -points
    else:
        agrees = low >= points if relation == "at_least" else low > points
        contradicts = high < points
    return "agrees" if agrees else "does not" if contradicts else UNDECIDED


class Printed:
    """Sentences and averages computed again from the published cells."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], float] = {}
        self._rows: dict[str, list[dict[str, str]]] = {}
        for paper in list_papers():
            self._rows[paper] = _read_lines(rows_of(paper))
            for line in self._rows[paper]:
                key = f"{line['table']}|{line['row']}|{line['column']}"
                self._cells[paper, key] = float(
                    values.fraction(line["value"], f"data/reported/{paper}.csv")
                )

    def verdict(self, claim: dict[str, str]) -> tuple[str, str]:
        """Whether a printed sentence holds in the printed cells, and what they give."""
        given = self.value(claim["paper"], claim["left"])
        if claim["right"]:
            given -= self.value(claim["paper"], claim["right"])

        stated = float(claim["stated"])
        digits = len(claim["stated"].partition(".")[2])
        holds = {
            # Half a unit of the last digit that the sentence prints.
            "is": abs(given - stated) < 0.5 * 10.0**-digits + 1e-9,
            "about": abs(given - stated) <= max(ABOUT, ABOUT * stated / 10) + 1e-9,
            "at_least": given >= stated - 1e-9,
            "at_most": given <= stated + 1e-9,
        }

        if claim["relation"] not in holds:
            raise UserError(f"data/claims/printed.csv: no relation {claim['relation']!r}")
        if claim["failure"] not in FAILURES:
            raise UserError(f"data/claims/printed.csv: no failure {claim['failure']!r}")
        return ("holds" if holds[claim["relation"]] else claim["failure"]), f"{given:.2f}"

    def value(self, paper: str, text: str) -> float:
        """A cell, one minus another, or the max or min of several: `max a; b; c`."""
        for word, pick in (("max ", max), ("min ", min)):
            if text.startswith(word):
                return pick(
                    self._find_cell(paper, key) for key in text.removeprefix(word).split("; ")
                )
        first, _, second = text.partition(" minus ")
        return self._find_cell(paper, first) - (self._find_cell(paper, second) if second else 0.0)

    def _find_cell(self, paper: str, key: str) -> float:
        if (paper, key) not in self._cells:
            raise UserError(f"data/claims/printed.csv: data/reported/{paper}.csv has no cell {key}")
        return self._cells[paper, key]

    def averages(self, paper: str) -> list[tuple[str, float, float]]:
        """Printed averages that are not those of their row's attacks: name, printed, computed."""
        groups: dict[str, dict[str, float]] = {}
        for line in self._rows[paper]:
            prefix, _, column = f" {line['column']}".rpartition(" ")
            name = f"Table {line['table']}, {line['row']}{prefix}"
            groups.setdefault(name, {})[column] = float(line["value"])

        wrong = []
        for name, cells in groups.items():
            if "Avg" in cells:
                parts = [v for k, v in cells.items() if k not in ("Avg", "Clean", "change")]
                mean = sum(parts) / len(parts)
                if abs(mean - cells["Avg"]) > 0.05 + 1e-9:
                    wrong.append((name, cells["Avg"], mean))
        return wrong
