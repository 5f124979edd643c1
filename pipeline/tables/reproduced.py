"""Every published number beside ours: which settings match, and whether it came out again."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pipeline.core.intervals import FEWEST
from pipeline.plan import Plan
from pipeline.plan.estimate import seconds
from pipeline.plan.graph.targets import Cell, walk
from pipeline.plan.params import values
from pipeline.tables.reported import is_own, list_papers, rows_of
from pipeline.tables.rows import Row, Tabulation

MATCHES = ("data", "arch", "recipe", "attack", "checkpoint", "seeds")
COLUMNS = (
    "paper", "table", "row", "column", "published", "ours", "low", "high", "difference",
    *MATCHES, "verdict", "hours", "scale",
)  # fmt: skip
PAPER = "paper"  # the scale of what is printed
UNKNOWN, STOOD_IN, NOT_RUN = "settings unknown", "not at this scale", "not run"

Line = dict[str, str]
Costs = dict[tuple[str, str], float | None]  # seconds by stage and id; None if unknown


@dataclass
class Place:
    """A row of one of our tables that a published row is, and the table's other half."""

    tabulation: Tabulation
    row: Row
    costs: Costs | None = None  # of what it still needs, where that was asked


class Reproduced:
    """All published numbers of all papers, judged by the tables that print them again."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._places: dict[tuple[str, str], list[Place]] = {}
        # a table that is called what is printed comes before one that only takes its numbers
        for table in sorted(
            plan.tables.values(), key=lambda t: not is_own(t.name, t.spec["entry"])
        ):
            entry = table.spec["entry"]
            if entry["reported"] != "none" and entry["printed"] != "any":
                key = (str(entry["reported"]), str(entry["printed"]))
                tabulation = Tabulation(plan, table, partial=True)
                places = self._places.setdefault(key, [])
                places += [Place(tabulation, row) for row in tabulation.rows]

    def lines(self) -> Iterator[Line]:
        """One line a published number, in the papers' order."""
        for paper, printed in _list_printed():
            yield self._judge_line(paper, printed)

    def _judge_line(self, paper: str, printed: Line) -> Line:
        line = dict.fromkeys(COLUMNS, "")
        line |= {"paper": paper, "scale": self.plan.scale, "published": printed["value"]}
        line |= {key: printed[key] for key in ("table", "row", "column")}

        place = self.find(paper, printed)
        if place is None:  # a scale shows fewer rows than the papers'
            at_paper = self._whole and self._whole.find(paper, printed)
            return line | {"verdict": STOOD_IN if at_paper else UNKNOWN}

        line |= self._compare_settings(place, printed["attack"])
        if line["data"] == "no" or "no" in (line["arch"], line["recipe"], line["attack"]):
            return line | {"verdict": STOOD_IN}

        if lacks := place.row.cells[0].lacks:
            return line | {"verdict": f"{NOT_RUN} ({lacks})"}
        if place.row.status != "done":
            hours = self._estimate_hours(place)
            return line | {"verdict": NOT_RUN, "hours": "" if hours is None else f"{hours:.1f}"}
        return line | self._judge(place, printed)

    @cached_property
    def _whole(self) -> "Reproduced | None":
        """The same at the papers' scale, where this is another."""
        if self.plan.scale == PAPER:
            return None
        return Reproduced(Plan({**self.plan.entries.params, "scale": PAPER}))

    def find(self, paper: str, printed: Line) -> Place | None:
        """The row of ours that a published number belongs to, where a table shows its column."""
        for place in self._places.get((paper, printed["table"]), []):
            cell, shown = place.row.cells[0], place.tabulation
            same = printed["entry"] == cell.row and printed["dataset"] == cell.setting.dataset
            same = same and printed["arch"] == cell.setting.arch
            same = same and printed["members"] == str(cell.members)
            same = same and printed["checkpoint"] == cell.setting.checkpoint
            # an axis makes other rows of the paper's, a radius of training its own
            same = same and not {*dict(cell.setting.overrides)} - {"train_eps"}
            same = same and shown.reported.is_trained_so(printed["table"], cell.setting.recipe)
            if (
                same
                and printed["attack"] in shown.accuracies
                and self._has_same_eps(place, printed)
            ):
                return place
        return None

    def _has_same_eps(self, place: Place, printed: Line) -> bool:
        cell, reported = place.row.cells[0], place.tabulation.reported
        trained = dict(cell.setting.overrides).get("train_eps")
        if trained is not None and printed["eps"] not in ("", "0"):  # one model for each radius
            own = values.fraction(trained, "train_eps")
            return bool(own == values.fraction(printed["eps"], "eps"))

        if self._stands_in(cell) or cell.victim is None:
            return True  # radii are the stand-in's or nobody's, and there is no verdict
        return reported.same_eps(cell, printed["attack"], printed["eps"])

    def _stands_in(self, cell: Cell) -> bool:
        return self.plan.entries.stand_in(cell.setting.dataset)[0] != cell.setting.dataset

    def _compare_settings(self, place: Place, column: str) -> Line:
        """yes or no for each of `MATCHES`; the rest of the settings found the row."""
        entries, cell = self.plan.entries, place.row.cells[0]

        stood_in = cell.victim and cell.victim.stood_in
        matches = {
            "data": not self._stands_in(cell),
            "arch": not stood_in and entries.arch(cell.setting.arch).name == cell.setting.arch,
            "recipe": not entries.recipe_cut(cell.setting.recipe),
            "attack": not place.tabulation.is_cut(cell, column),
            "checkpoint": True,
            "seeds": len(place.row.cells) >= FEWEST,
        }
        return {key: "yes" if value else "no" for key, value in matches.items()}

    def _judge(self, place: Place, printed: Line) -> Line:
        column = place.tabulation.shown.get(printed["attack"], printed["attack"])
        cell = place.tabulation.describe(place.row)[column]
        ours, published = 100 * cell["mean"], float(values.fraction(printed["value"], "value"))

        judged = {"ours": f"{ours:.2f}", "difference": f"{ours - published:+.2f}"}
        if cell["seeds"] < FEWEST or cell["low"] is None:
            return judged | {"verdict": f"cannot tell from {cell['seeds']} seeds"}

        low, high = 100 * cell["low"], 100 * cell["high"]
        same = low <= published <= high
        verdict = "reproduced" if same else f"differs by {ours - published:+.1f}"
        return judged | {"low": f"{low:.2f}", "high": f"{high:.2f}", "verdict": verdict}

    def _estimate_hours(self, place: Place) -> float | None:
        """Hours of what the row still needs, on one machine of the scale's `gflops`; what another
        row needs too is counted for each of them."""
        costs = [*self._find_costs(place).values()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) / 3600 if len(known) == len(costs) else None

    def _find_costs(self, place: Place) -> Costs:
        if place.costs is None:
            records = [r for cell in place.row.cells for r in cell.records.values()]
            missing = walk(self.plan.graph, records, lambda artifact: artifact.is_here())
            place.costs = {(a.stage, a.id): seconds(self.plan, [a]) for a in missing}
        return place.costs

    def choose(self, hours: float) -> list[tuple[str, int, float]]:
        """Rows that decide most numbers an hour, while they fit: (row, numbers, hours).

        A row costs what those before it have not made already.
        """
        numbers: Counter[str] = Counter()
        waiting: dict[str, Costs] = {}
        for paper, printed in _list_printed():
            place = self.find(paper, printed)
            line = self._judge_line(paper, printed)
            if place and line["verdict"] == NOT_RUN and line["hours"]:
                table = place.tabulation.table
                name = f"{paper} Table {printed['table']}: {table.path}, {place.row.label}"
                numbers[name] += 1
                waiting[name] = self._find_costs(place)

        chosen, made, left = [], set[tuple[str, str]](), hours * 3600
        while waiting:
            costs = {
                name: sum(cost or 0 for key, cost in needed.items() if key not in made)
                for name, needed in waiting.items()
            }
            fitting = [name for name, cost in costs.items() if cost <= left]
            if not fitting:
                break

            best = max(fitting, key=lambda name: numbers[name] / max(costs[name], 1))
            chosen.append((best, numbers[best], costs[best] / 3600))
            made |= waiting.pop(best).keys()
            left -= costs[best]
        return chosen


def _list_printed() -> Iterator[tuple[str, Line]]:
    """Every published number, in the papers' order."""
    for paper in list_papers():
        for printed in rows_of(paper).to_dict("records"):
            yield paper, {str(k): str(v) for k, v in printed.items()}


def totals(lines: list[Line]) -> list[str]:
    """Counts of verdicts, of all papers first, then by paper and table."""
    groups: dict[str, Counter[str]] = {"all": Counter()}
    for line in lines:
        verdict = "differs" if line["verdict"].startswith("differs") else line["verdict"]
        for name in ("all", f"{line['paper']} Table {line['table']}"):
            groups.setdefault(name, Counter())[verdict] += 1
    return [
        f"{name}: {sum(counts.values())} numbers: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        for name, counts in groups.items()
    ]
