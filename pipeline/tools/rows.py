"""Rows of a table by the names that people type: a row, what the table calls it, a victim's id."""

from dataclasses import replace

from pipeline.errors import UserError
from pipeline.plan import Plan, Record, Table, record_id
from pipeline.plan.graph.targets import Cell, label
from pipeline.plan.params.words import nearest, unique


def find_cells(plan: Plan, table: Table, name: str) -> list[Cell]:
    """The seeds of a row, or the one victim of an id or its beginning, were it of another table."""
    cells = [c for c in table.cells if name in (c.row, label(c, table.cells), _find_id(c))]

    several = {(c.setting.dataset, c.setting.arch, c.members, c.setting.overrides) for c in cells}
    if len(several) > 1:
        names = dict.fromkeys(label(c, table.cells) for c in cells)
        listed = ", ".join(repr(known) for known in list(names)[:4])
        raise UserError(f"{name}: stands for several rows of {table.path}; name one: {listed}")

    if any(c.victim is None for c in cells):
        raise UserError(f"{name}: is not available ({cells[0].lacks})")
    return cells or [_find_elsewhere(plan, table, name)]


def _find_id(cell: Cell) -> str:
    return cell.victim.id if cell.victim else ""


def _find_elsewhere(plan: Plan, table: Table, name: str) -> Cell:
    """A victim of any table, under the suites and on the images of this one."""
    everywhere = [c for target in plan.targets.values() for c in target.cells if c.victim]
    by_id = {_find_id(c): c for c in everywhere if _find_id(c).startswith(name)}
    own = [id for id in by_id if id in {_find_id(c) for c in table.cells}]
    id = name if name in by_id else own[0] if len(own) == 1 else unique(name, by_id)
    if id is None:
        rows = {c.row for c in table.cells}
        raise UserError(f"{table.path} has no row {name!r}{nearest(name, rows)}")

    cell = by_id[id]
    assert cell.victim is not None
    images = table.spec["entry"]["images"]
    asked = [plan.name_record(cell.victim, s, cell.setting, images) for s in table.suites]
    return replace(cell, records={record.suite: record for record in asked})


def find_record(plan: Plan, name: str, attack: str, target: str) -> Record:
    """A record by its id, its file or a unique beginning, or by a row of a table and an attack."""
    given = record_id(name)
    known = plan.graph.records
    id = given if given in known else unique(given, known) if "-" in given else None
    if id is not None:
        return plan.record(id)

    cells = find_cells(plan, plan.table(target), given)
    if len(cells) > 1:
        ids = ", ".join(_find_id(cell) for cell in cells)
        raise UserError(f"{given}: has {len(cells)} seeds in {target}; name one: {ids}")
    holding = [r for r in cells[0].records.values() if attack in dict(r.attacks)]
    if not holding:
        met = {name for r in cells[0].records.values() for name, _ in r.attacks}
        raise UserError(f"{given}: meets no attack {attack!r} in {target}{nearest(attack, met)}")
    return holding[0]
