"""What a row is: its method in its own words, its entry, its curve, its flags, what it rests on."""

import ast
import csv
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.pages import charts
from pipeline.plan import Plan, Run, Table
from pipeline.plan.graph.targets import Cell, label
from pipeline.plan.params.pages import pages
from pipeline.plan.params.schema import ROOT
from pipeline.plan.params.values import settings_of
from pipeline.store.sums import as_seconds, read_mapping, sum_of

FLAGS_PAGE = Path("docs/flags.md")
# a sweep's column: pgd20_eps_8_255, pgd50_5_eps_0p01
EPS = re.compile(r"(.+)_eps_\d+(?:p\d+|_[1-9]\d*)?")
MADE = {"train": "trained", "average": "averaged", "adopt": "adopted"}


@dataclass(frozen=True)
class Card:
    """Everything about a row that is no column of its table."""

    label: str
    row: str
    family: str  # the method whose loss trained it
    papers: tuple[str, ...]
    words: dict[str, str]  # docstrings, by the file they stand in
    whose: str  # training the settings and the curve are of, where members train apart
    settings: str
    curve: str
    radii: str
    flags: list[tuple[str, str, str]]  # check, what it found, what it usually means
    receipts: list[tuple[str, str]]
    again: str
    load: str


def cards(
    plan: Plan,
    table: Table,
    details: dict[str, Any],
    sweeps: dict[str, dict[str, charts.Points]],
) -> list[Card]:
    """A card for each finished row of a table, of its first seed.

    sweeps: accuracy against radius by attack, of victims by their ids.
    """
    first: dict[str, Cell] = {}
    for cell in table.cells:
        first.setdefault(label(cell, table.cells), cell)
    done = [name for name, found in details.items() if found["status"] == "done"]
    return [_build_card(plan, table, first[name], name, details[name], sweeps) for name in done]


def _build_card(
    plan: Plan,
    table: Table,
    cell: Cell,
    name: str,
    found: dict[str, Any],
    sweeps: dict[str, dict[str, charts.Points]],
) -> Card:
    assert cell.victim is not None
    runs = [plan.run(element.run) for element in cell.victim.elements]
    run, trained = runs[0], plan.training(runs[0])
    parts = [("methods", trained.spec["method"]["component"])]
    parts += [("averages", run.spec["average"]["component"])] if run.stage == "average" else []

    target = table.path.as_posix()
    return Card(
        label=name,
        row=cell.row,
        family=str(parts[0][1]),
        papers=papers_of(cell.row),
        words={f"pipeline/{room}/{part}.py": _read_docstring(room, part) for room, part in parts},
        whose=_name_member(plan, runs, 0),
        settings=_list_settings(run, trained),
        curve=charts.lines(_read_history(trained), "epoch"),
        radii=charts.lines(sweeps.get(cell.victim.id, {}), "radius, in 255ths of a pixel's range"),
        flags=[(c, text, meanings().get(c, "")) for c, text in found["flags"].items()],
        receipts=[*_list_receipts(plan, runs, cell)],
        again=f"python -m pipeline plan {target} --row {shlex.quote(name)} --seed {cell.seed}"
        " --run",
        load=f'model, (images, labels) = load("{target}", "{name}")',
    )


def papers_of(row: str) -> tuple[str, ...]:
    """The papers whose pages define a row or show it in a table."""
    papers = []
    for paper, page in _read_pages().items():
        own = [*page.get("methods", {}), *page.get("averages", {}), *page.get("victims", {})]
        shown = [str(entry.get("rows", "")) for entry in page.get("tables", {}).values()]
        if row in own or any(re.search(rf"\b{re.escape(row)}\b", rows) for rows in shown):
            papers.append(paper)
    return tuple(papers)


@cache
def _read_pages() -> dict[str, dict[str, Any]]:
    """What each paper's page says."""
    files = pages(ROOT / "params.yaml")
    return {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in files}


@cache
def meanings() -> dict[str, str]:
    """What each check fires at and what that usually means, by its code, as docs/flags.md says."""
    if not FLAGS_PAGE.is_file():
        raise UserError(f"{FLAGS_PAGE}: is missing; run: git checkout {FLAGS_PAGE}")
    # A later table counts false alarms of the same checks.
    page = FLAGS_PAGE.read_text("utf-8").partition("| flag |")[0]
    rows = re.findall(r"^\| (C\d+) \| (.+?) \| (.+?) \|", page, re.M)
    return {check: f"Fires when {when}. Usually: {means}." for check, when, means in rows}


def _read_docstring(room: str, component: str) -> str:
    tree = ast.parse((ROOT / "pipeline" / room / f"{component}.py").read_text("utf-8"))
    return ast.get_docstring(tree) or ""


def _list_settings(run: Run, trained: Run) -> str:
    """The resolved values it was trained with, as they would stand in params.yaml."""
    kept = ("method", "recipe", "attack", "arch", "seed", "members", "weights")
    shown = {key: trained.spec[key] for key in kept if trained.spec.get(key)}
    shown |= {"average": run.spec["average"]} if run.stage == "average" else {}
    # Through JSON, for YAML's safe writer knows no tuples.
    plain = {k: v.get("fields", v) if isinstance(v, dict) else v for k, v in shown.items()}
    return yaml.safe_dump(json.loads(json.dumps(plain)), sort_keys=False)


def _read_history(run: Run) -> dict[str, charts.Points]:
    """Validation accuracies by epoch, in percent; none of weights from elsewhere."""
    path = run.folder / "history.csv"
    if not path.is_file():
        return {}

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(float(r["epoch"]), 100 * float(r[column])) for r in rows if r[column]]
        for name, column in (("clean", "val_clean"), ("attacked", "val_robust"))
    }


def collect_radii(
    table: Table, details: dict[str, Any]
) -> Iterator[tuple[str, dict[str, charts.Points]]]:
    """Accuracy against radius in pixels of 255, by attack, of every victim that a table sweeps.

    The radius is that of the evaluation: where a data set stands in, it is scaled.
    """
    for cell in table.cells:
        attacks = {name: spec for record in cell.records.values() for name, spec in record.attacks}
        swept = {name: match[1] for name in attacks if (match := EPS.fullmatch(name))}
        found = details.get(label(cell, table.cells), {}) if swept else {}

        series: dict[str, list[tuple[float, float]]] = {}
        for name, attack in swept.items():
            if isinstance(value := found.get(name), dict):
                eps = float(settings_of(attacks[name]["fields"])["eps"])
                series.setdefault(attack, []).append((255 * eps, 100 * value["mean"]))
        if cell.victim and series:
            yield cell.victim.id, {attack: sorted(points) for attack, points in series.items()}


def _name_member(plan: Plan, runs: list[Run], index: int) -> str:
    """Which of the members that train apart a run makes; empty where one run makes them all."""
    if len(runs) == 1:
        return ""
    seed = plan.training(runs[index]).spec["seed"]
    return f", member {index + 1} of {len(runs)}, seed {seed}"


def _list_receipts(plan: Plan, runs: list[Run], cell: Cell) -> Iterator[tuple[str, str]]:
    """Ids and sums of what the row rests on, versions, the kind of machine, seconds."""
    assert cell.victim is not None
    yield "victim", cell.victim.id
    for run, element in zip(runs, cell.victim.elements, strict=True):
        path = run.checkpoint(element.checkpoint)
        yield path.as_posix(), _show_sum(path)
    for record in cell.records.values():
        yield record.path.as_posix(), _show_sum(record.path)

    for index, run in enumerate(runs):
        whose = _name_member(plan, runs, index)
        for made in {r.id: r for r in (plan.training(run), run)}.values():
            yield from _list_maker(_find_times(made), MADE[made.stage] + whose)
    yield from _sum_trainings([plan.training(run) for run in runs])
    for record in cell.records.values():
        yield from _list_maker(record.path.with_suffix(".time.json"), f"judged, {record.suite}")


def _find_times(run: Run) -> Path:
    return run.folder / "run.time.json"


def _sum_trainings(trained: list[Run]) -> Iterator[tuple[str, str]]:
    """The seconds of several trainings; nothing where one is unknown, for a part is no sum."""
    seconds = [as_seconds(read_mapping(_find_times(run)).get("seconds")) for run in trained]
    known = [s for s in seconds if s is not None]
    if 1 < len(seconds) == len(known):
        yield "trained, all members", f"{len(known)} trainings, {round(sum(known), 1)} s in all"


def _show_sum(path: Path) -> str:
    """The sum of a file; a clone has its table without what that rests on."""
    return f"sha256 {sum_of(path)}" if path.is_file() else "not here: pull it"


def _list_maker(path: Path, what: str) -> Iterator[tuple[str, str]]:
    """Where and how long; a clone has no such file, for it is no part of the result."""
    if made := read_mapping(path):
        keys = ("seconds", "device", "cpu", "torch", "python")
        seconds, chip, cpu, torch, python = (made.get(key, "unknown") for key in keys)
        yield what, f"{seconds} s on {chip}, {cpu}, torch {torch}, Python {python}"
