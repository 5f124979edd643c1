"""Red flags of published numbers: what data/reported/ contradicts by itself."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.params import values

FOLDER = Path("data/reported")
SMALLEST_GAP = 0.3  # points that AutoAttack finds beyond PGD at the least, or it is not AutoAttack
ROLES = {  # what an attack is to the checks, by its params entry
    "clean": ("clean",),
    "fgsm": ("fgsm", "red_fgsm"),
    "pgd": ("pgd100", "pgd20_trades", "red_pgd", "meat_pgd20"),
    "aa": ("apgd_ce", "autoattack", "red_autoattack"),
    "cw_l2": ("red_cw",),
    "deepfool": ("red_deepfool",),
    "transfer3": ("transfer3",),
    "transfer30": ("transfer30",),
}
ROLE = {attack: role for role, attacks in ROLES.items() for attack in attacks}


@dataclass(frozen=True)
class Cell:
    """One printed accuracy in percent."""

    paper: str
    table: str
    row: str
    setting: tuple[str, ...]  # data set, arch, members, checkpoint, entry
    role: str
    eps: float
    value: float

    @property
    def name(self) -> str:
        """For a text."""
        dataset, arch, members, *_ = self.setting
        radius = f", eps {self.eps:g}" if self.paper == "soe" else ""
        return f"{self.paper} table {self.table}, {self.row} ({dataset} {arch} x{members}{radius})"


def read(folder: Path = FOLDER) -> list[Cell]:
    """Every printed accuracy whose attack has a role here."""
    cells = []
    for path in sorted(folder.glob("[!.]*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                role = ROLE.get(line["attack"])
                if role is None or line["value"] == "":
                    continue
                keys = ("dataset", "arch", "members", "checkpoint", "entry")
                setting = tuple(line[k] for k in keys)
                eps, value = (_read_number(line[k], path) for k in ("eps", "value"))
                cell = Cell(path.stem, line["table"], line["row"], setting, role, eps, value)
                cells.append(cell)

    if not cells:
        raise UserError(f"{folder}: holds no published accuracies; run from the project's folder")
    return cells


def _read_number(text: str, path: Path) -> float:
    return float(values.fraction(text or "0", str(path)))


def lint(folder: Path = FOLDER) -> Iterator[str]:
    """One line for every contradiction."""
    cells = read(folder)
    yield from _check_rows(cells)
    yield from _check_sets(cells)
    yield from _check_radii(cells)


def _check_rows(cells: Iterable[Cell]) -> Iterator[str]:
    """Attacks of one row against each other."""
    rows: dict[tuple[object, ...], dict[str, Cell]] = {}
    for cell in cells:
        if cell.paper != "soe":  # one model for each radius there
            key = (cell.paper, cell.table, cell.row, cell.setting)
            rows.setdefault(key, {}).setdefault(cell.role, cell)

    for row in rows.values():
        for weak, strong, check in (
            ("fgsm", "pgd", "C3"),
            ("fgsm", "aa", "C8"),
            ("pgd", "aa", "C8"),
            ("clean", "cw_l2", "C9"),
        ):
            if weak in row and strong in row and row[strong].value > row[weak].value:
                over = f"{strong} {row[strong].value:g} above {weak} {row[weak].value:g}"
                yield f"{row[weak].name}: {check}: {over}"
        if "pgd" in row and "aa" in row and row["pgd"].paper == "aute":
            gap = round(row["pgd"].value - row["aa"].value, 6)
            if 0 <= gap < SMALLEST_GAP:
                yield f"{row['aa'].name}: C10: aa only {gap:.1f} below pgd"
        if "deepfool" in row and row["deepfool"].value > 0:
            left = row["deepfool"].value
            yield f"{row['deepfool'].name}: C11: deepfool, unbounded, leaves {left:g}"


def _check_sets(cells: Iterable[Cell]) -> Iterator[str]:
    """More variants cannot leave more."""
    few = {(c.row, c.setting, c.eps): c for c in cells if c.role == "transfer3"}
    for cell in cells:
        part = few.get((cell.row, cell.setting, cell.eps)) if cell.role == "transfer30" else None
        if part is not None and cell.value > part.value:
            yield f"{cell.name}: C9: 30 variants leave {cell.value:g}, 3 of them {part.value:g}"


def _check_radii(cells: Iterable[Cell]) -> Iterator[str]:
    """A larger radius cannot leave more, if it is not another model."""
    rows: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        if cell.paper == "soe" and cell.role.startswith("transfer"):
            rows.setdefault((cell.table, cell.row, cell.setting), []).append(cell)

    for row in rows.values():
        ordered = sorted(row, key=lambda cell: cell.eps)
        for small, large in zip(ordered, ordered[1:], strict=False):
            if large.value > small.value:
                yield f"{large.name}: C6: {large.value:g} above {small.value:g} at {small.eps:g}"
