"""Published numbers, typed once: printed beside ours only where everything matches."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.plan import Plan, frozen
from pipeline.plan.graph.targets import Cell
from pipeline.plan.params import values
from pipeline.plan.params.values import Entry

COLUMNS = (
    "table",
    "row",
    "column",
    "value",
    "entry",
    "dataset",
    "arch",
    "members",
    "eps",
    "attack",
    "checkpoint",
)
FIRST = ("aute", "soe", "at_aka", "red", "meat")
CELL = ["entry", "dataset", "arch", "members", "attack", "checkpoint"]  # what a cell must equal
# words of a printed column beside its attack, and radii
NO_ATTACK = ("best", "last", "robust", "change")
NUMBER = re.compile(r"[\d./]+")
PRINTED = ["table", "eps", "value"]  # of a number, what is asked then


def list_papers() -> list[str]:
    """Papers with published numbers: those that came first, then others by name."""
    found = sorted(path.stem for path in _find_path("").parent.glob("[!.]*.csv"))
    return sorted(found, key=lambda p: FIRST.index(p) if p in FIRST else len(FIRST))


def _find_path(paper: str) -> Path:
    return frozen.base() / "data/reported" / f"{paper}.csv"


def rows_of(paper: str) -> pd.DataFrame:
    """All published numbers of a paper, as text; raises UserError when they cannot be read."""
    path = _find_path(paper)
    try:
        rows = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (
        FileNotFoundError,
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
    ) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error

    if tuple(rows.columns) != COLUMNS:
        raise UserError(f"{path}: columns must be {', '.join(COLUMNS)}")
    return rows


class Reported:
    """The numbers of one paper, or of one of its tables (`printed`: its number, or `any`); `entry`
    names the params entry that a printed row is."""

    def __init__(
        self, plan: Plan, paper: str, means: dict[str, list[str]], printed: str | int = "any"
    ) -> None:
        self.plan, self.means = plan, means
        self.rows = pd.DataFrame(columns=list(COLUMNS))
        self.by_cell: dict[Any, list[Any]] = {}
        if paper == "none":
            return
        self.path = _find_path(paper)
        self.rows = rows_of(paper)
        if printed != "any":
            self.rows = self.rows[self.rows["table"] == str(printed)]
        self.recipes = _list_recipes(plan, paper)
        groups = self.rows.groupby(CELL)[PRINTED]
        self.by_cell = {key: rows.to_dict("records") for key, rows in groups}

    def value(self, cell: Cell, column: str) -> float | None:
        """The published accuracy (a fraction) of exactly this cell, or None; whether its attacks
        are cut is the table's to say."""
        setting, members = cell.setting, str(cell.members)
        key = (cell.row, setting.dataset, setting.arch, members, column, setting.checkpoint)
        printed = self.by_cell.get(key, [])
        if not printed or cell.victim is None or self._is_changed(cell):
            return None

        same = {
            number["value"]
            for number in printed
            if self.is_trained_so(number["table"], setting.recipe)
            and self.same_eps(cell, column, number["eps"])
        }
        if len(same) != 1:  # a paper may print a cell again in another table
            return None
        return float(values.fraction(same.pop(), str(self.path))) / 100

    def is_trained_so(self, table: str, recipe: str) -> bool:
        """Whether a printed table was trained by this recipe, by the tables that rebuild it."""
        return recipe in self.recipes.get(table, {recipe})

    def names(self, columns: list[str]) -> list[str]:
        """What the paper calls the attacks of these columns; which stand as released."""
        sentences = []
        for column in columns:
            rows = self.rows[self.rows["attack"] == column]
            called = dict.fromkeys(filter(None, map(_find_attack, rows["column"])))
            as_printed = f"printed_{column.partition('_')[2]}"
            released = as_printed in self.plan.entries.section("attacks")
            mark = f" (the attack as released; as printed: {as_printed})" if released else ""
            sentences += [f"{column} as {' or '.join(called)}{mark}"] if called else []
        return sentences

    def _is_changed(self, cell: Cell) -> bool:
        """Whether the scale or an axis makes something else of what the row's names say."""
        entries, setting = self.plan.entries, cell.setting
        stood_in = entries.stand_in(setting.dataset)[0] != setting.dataset
        stood_in |= bool(cell.victim and cell.victim.stood_in)
        return stood_in or bool(entries.recipe_cut(setting.recipe)) or setting != setting.bare()

    def same_eps(self, cell: Cell, column: str, eps: str) -> bool:
        """Whether the attack has this radius, or neither has one; for clean images, whether
        training had it."""
        radius = float(values.fraction(eps, str(self.path))) if eps else None
        if column == "clean":
            trained = 0 if cell.setting.eps is None else cell.setting.eps
            return float(values.fraction(trained, "train_eps")) in (radius, 0.0)
        specs = dict(a for r in cell.records.values() for a in r.attacks)

        parts = self.means.get(column, [column])
        if column in cell.records:  # the worst case of a suite
            parts = [name for name, _ in cell.records[column].attacks]
        return all(p in specs and _is_at(radius, specs[p]["fields"]) for p in parts)


def is_own(name: str, entry: Entry) -> bool:
    """Whether a table is called what it prints again, as aute_table1: others may take its numbers
    along with its `base`."""
    return name.startswith(f"{entry['reported']}_table{entry['printed']}")


def _list_recipes(plan: Plan, paper: str) -> dict[str, set[str]]:
    """Recipes of the tables that rebuild each printed table of a paper."""
    own: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for name in plan.entries.section("tables"):
        entry = plan.entries.entry("tables", name)[1]
        if entry["reported"] == paper and entry["printed"] != "any":
            recipes = own if is_own(name, entry) else others
            recipes.setdefault(str(entry["printed"]), set()).add(str(entry["recipe"]))
    return others | own


def _is_at(radius: float | None, fields: dict[str, Any]) -> bool:
    """Whether an attack has this radius; None is that of one that has none."""
    own = values.settings_of(fields).get("eps")
    return own is radius if own is None or radius is None else bool(abs(own - radius) < 1e-9)


def _find_attack(column: str) -> str:
    """The last word of a printed column that is no checkpoint and no radius; empty without one."""
    words = [word for word in column.split(" ") if word not in NO_ATTACK]
    return words[-1] if words and not NUMBER.fullmatch(words[-1]) else ""
