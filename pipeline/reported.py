"""Published numbers, typed once: printed beside ours only where everything matches."""

from pathlib import Path

import pandas as pd

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.graph import Cell

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


class Reported:
    """The numbers of one paper; `entry` names the params entry that a printed row is."""

    def __init__(self, plan: Plan, paper: str) -> None:
        self.plan = plan
        self.rows = pd.DataFrame(columns=list(COLUMNS))
        if paper == "none":
            return
        path = Path("data/reported") / f"{paper}.csv"
        self.rows = pd.read_csv(path, keep_default_na=False, dtype={"eps": str})
        if tuple(self.rows.columns) != COLUMNS:
            raise UserError(f"{path}: columns must be {', '.join(COLUMNS)}")

    def value(self, cell: Cell, column: str) -> float | None:
        """The published accuracy (a fraction) of exactly this cell, or None."""
        if self.rows.empty or cell.victim is None:
            return None
        entries, setting, rows = self.plan.entries, cell.setting, self.rows
        stood_in = entries.stand_in(setting.dataset)[0] != setting.dataset
        if stood_in or setting.arch in entries.part("archs") or column in entries.part("attacks"):
            return None
        found = rows[
            (rows["entry"] == cell.row)
            & (rows["dataset"] == setting.dataset)
            & (rows["arch"] == setting.arch)
            & (rows["members"] == cell.members)
            & (rows["attack"] == column)
            & (rows["checkpoint"] == setting.checkpoint)
        ]
        if len(found) != 1 or not self._same_eps(cell, column, found["eps"].iloc[0]):
            return None
        return float(found["value"].iloc[0]) / 100

    def _same_eps(self, cell: Cell, column: str, eps: str) -> bool:
        if column == "clean":
            return True
        numerator, _, denominator = eps.partition("/")
        radius = float(numerator) / float(denominator or 1)
        specs = dict(a for r in cell.records.values() for a in r.attacks)
        return column in specs and abs(specs[column]["fields"]["eps"] - radius) < 1e-9
