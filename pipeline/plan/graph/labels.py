"""What a row is called beside the other rows it stands with."""

from collections.abc import Sequence

from pipeline.plan.graph.artifacts import Cell


def label(cell: Cell, cells: Sequence[Cell], without: str = "") -> str:
    """The row's name, and whatever else tells it from the others; `without` one axis."""
    setting = cell.setting
    parts = [cell.row]
    parts += [f"x{cell.members}"] if _varies(cells, "members") else []
    parts += [setting.dataset] if len({c.setting.dataset for c in cells}) > 1 else []
    parts += [setting.arch] if _varies(cells, "arch") else []
    parts += [f"{k}={v}" for k, v in setting.overrides if k != without]
    return " ".join(parts)


def _varies(cells: Sequence[Cell], key: str) -> bool:
    """Whether rows of one data set differ in this part of their settings."""
    pairs = {(c.setting.dataset, getattr(c.setting, key)) for c in cells}
    return len(pairs) > len({c.setting.dataset for c in cells})
