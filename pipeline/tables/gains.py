"""data/claims/gains.csv read: each claim's steps, with the differences that records give."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.plan import Plan, presented
from pipeline.tables.chain import Claim, Step
from pipeline.tables.claims import Printed, read_claims
from pipeline.tables.find import TRAINING, Tables, sides_of
from pipeline.tables.rows import Row

FILE = presented.GAINS
COLUMNS = (
    "paper",
    "claim",
    "published",
    "where",
    "changes",
    "table",
    "ours",
    "baseline",
    "column",
)
RATIOS = ("train_flops", "inference_macs", "parameters")

Line = dict[str, str]


class Gains:
    """The claims of the file, and what each step's baseline costs more or less."""

    def __init__(self, plan: Plan, file: Path = FILE) -> None:
        self.tables = Tables(plan, file)
        self.printed = Printed()
        self.lines: dict[str, list[Line]] = {}
        for line in read_claims(file, COLUMNS):
            self.lines.setdefault(line["claim"], []).append(line)

    def claims(self) -> list[Claim]:
        """Every claim, in the file's order."""
        return [self._read_claim(name, lines) for name, lines in self.lines.items()]

    def _read_claim(self, name: str, lines: list[Line]) -> Claim:
        first = lines[0]
        steps = tuple(self._read_step(line) for line in lines)

        # A step that has no records yet departs from nothing.
        known = [n for n, s in zip(lines, steps, strict=True) if s.differences is not None]
        departures = self._list_departures(known)
        published = self._read_published(first["paper"], first["published"])
        return Claim(first["paper"], name, published, first["where"], steps, departures)

    def _read_published(self, paper: str, formula: str) -> str:
        """The printed gain, from the printed cells: `LEFT minus RIGHT`."""
        if not formula:
            return ""
        left, _, right = formula.partition(" minus ")
        return f"{self.printed.value(paper, left) - self.printed.value(paper, right):+.2f}"

    def _list_departures(self, lines: Sequence[Line]) -> tuple[str, ...]:
        """What stands in, and how much the scale cuts; the text of each table names it all."""
        sides = [(line["table"], line[side]) for line in lines for side in ("ours", "baseline")]
        stand_ins = dict.fromkeys(d for pair in sides for d in self.tables.departures(*pair))

        cut = {name for line in lines for name in self.tables.cuts(line["table"])}
        attacks = len(cut - {TRAINING})
        counted = [TRAINING] * (TRAINING in cut) + [f"{attacks} attacks"] * bool(attacks)
        return (*stand_ins, *([f"cut: {' and '.join(counted)}"] if cut else []))

    def _read_step(self, line: Line) -> Step:
        rows = {side: self.tables.row(line["table"], line[side]) for side in ("ours", "baseline")}
        for side, row in rows.items():
            if row is None:
                lacks = f"{line['table']} has no row {line[side]} yet"
                return Step(line["changes"], None, lacks)
        for side, row in rows.items():
            if row and row.status != "done":
                return Step(line["changes"], None, f"{line[side]}: {row.status}")

        columns = sides_of(line["column"])
        for column in columns:
            if not self.tables.shows(line["table"], column):
                return Step(line["changes"], None, f"{line['table']} has no column {column}")

        sides = [row for row in rows.values() if row]
        shown = self.tables.tabulation(line["table"]).columns
        pairs = zip(sides, columns, strict=True)
        judged = {i for row, column in pairs for i in shown.find_images(row.cells, column)}
        differences = _pair_differences(sides, columns)
        if differences is None or len(judged) > 1:
            return Step(line["changes"], None, "judged on other images or seeds")

        worst = any(map(shown.is_worst, columns))
        flags = dict.fromkeys(f for row in sides for f in row.untrusted) if worst else {}
        return Step(line["changes"], differences, "", " ".join(flags), frozenset(judged))

    def ratios(self, line: Line) -> dict[str, float | None]:
        """Ours over the baseline's costs, where both are known."""
        rows = [self.tables.row(line["table"], line[side]) for side in ("ours", "baseline")]
        return {
            cost: _divide(*(row.costs.get(cost) if row else None for row in rows))
            for cost in RATIOS
        }


def _divide(ours: int | None, theirs: int | None) -> float | None:
    return ours / theirs if ours and theirs else None


def _pair_differences(rows: list[Row], columns: list[str]) -> NDArray[np.float64] | None:
    """Ours minus the baseline's verdicts, [seeds, images]; None where they do not pair."""
    ours, theirs = (row.verdicts[column] for row, column in zip(rows, columns, strict=True))
    if len(ours) != len(theirs) or len(ours[0]) != len(theirs[0]):
        return None
    differences: NDArray[np.float64] = np.stack(ours).astype(np.float64) - np.stack(theirs)
    return differences
