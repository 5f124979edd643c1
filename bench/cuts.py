"""What the scale's cut of the attacks hides: `python -m bench.cuts [IMAGES] [--rows ROW ...]`.

Needs the trained rows of table1. Each row is judged twice on the same first test images, with the
attacks as the scale cuts them and with none of them cut, in copies of the project. A cut is fair
where it hides at most 1.5 points more of a row than of the reference; `--write` keeps the figures
in data/cuts.csv, beside those of other rows, and a table marks a row by them (C23).
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bench.plan import copy_code
from pipeline.errors import UserError
from pipeline.flags.flags import UNFAIR
from pipeline.job.report import report
from pipeline.plan import Plan, load_plan
from pipeline.plan.graph.hidden import FILE, KEYS, SUITE
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.reader import read
from pipeline.plan.params.values import inherit

ROOT = Path(__file__).resolve().parents[1]
TABLE = "table1"
SUITES = ["core", "adaptive", "adaptive_transfer"]
COLUMNS = ["clean", "core_worst", "adaptive_worst"]


def list_attacks(params: dict[str, Any]) -> set[str]:
    """The entries of the suites' attacks, and those that they are based on."""
    names: set[str] = set()
    for suite in SUITES:
        _, entry = inherit(params["suites"], "suites", suite)
        pending = [str(name) for name in entry["attacks"]]
        while pending:
            name = pending.pop()
            names.add(name)
            base = params["attacks"][name].get("base")
            pending += [base] if base else []
    return names


def build_params(images: int, rows: list[str], *, is_cut: bool) -> dict[str, Any]:
    """The project's params with a table of these rows and images, its attacks cut or not."""
    params = read(ROOT / "params.yaml")
    scale = params["scales"][params["scale"]]
    scale["images"] = max(images, scale.get("images", images))
    shown = scale.setdefault("tables", {}).setdefault(TABLE, {})
    shown |= {"images": images, "suites": SUITES, "columns": COLUMNS, "means": {}}
    if rows:
        shown["rows"] = rows
        shown.pop("variants", None)  # either chooses rows
    if not is_cut:
        asked = list_attacks(params)
        cuts = scale.get("attacks", {})
        scale["attacks"] = {k: v for k, v in cuts.items() if k not in asked}
    return params


def lay(folder: Path, params: dict[str, Any]) -> None:
    """A copy of the project with its data and trained runs, under other params."""
    copy_code(folder)
    shutil.copytree(ROOT / "results/runs", folder / "results/runs")
    # a user's own images, which data/raw links to, stay where they are
    for prepared in (ROOT / "data").iterdir():
        if prepared.is_dir() and not (folder / "data" / prepared.name).exists():
            shutil.copytree(prepared, folder / "data" / prepared.name, symlinks=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def judge(params: dict[str, Any], cores: int) -> dict[str, dict[str, float]]:
    """Accuracies in percent by row and column."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay(folder, params)
        bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["snakemake", "-q", "rules", f"-c{cores}", f"results/{TABLE}.csv"]
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": bins}, check=False)
        if done.returncode:
            sys.exit("error: the table was not made; its logs went with the copy")
        with (folder / "results" / f"{TABLE}.csv").open(newline="") as lines:
            table = list(csv.DictReader(lines))
    return {line["method"]: {c: 100 * float(line[c]) for c in COLUMNS} for line in table}


def describe(plan: Plan) -> dict[str, str]:
    """The record behind each row's adaptive worst case, as the project's own table has it."""
    cells = plan.tables[TABLE].cells
    return {cell.row: cell.records[SUITE].id for cell in cells if cell.records}


def check(asked: Plan, records: Mapping[str, str] | None) -> None:
    """Raise UserError unless each of the rows has one line of numbers, trained runs here and, where
    its figures are to be kept, one of these records."""
    cells, seen = asked.tables[TABLE].cells, dict[str, Setting]()
    for cell in cells:
        setting = replace(cell.setting, seed=0)
        if cell.lacks:
            raise UserError(
                f"{cell.row}: is {cell.lacks} and has no numbers; name others by --rows"
            )
        if seen.setdefault(cell.row, setting) != setting:
            raise UserError(
                f"{cell.row}: has several lines in {TABLE}, whose axes must be one value"
            )
        if records is not None and cell.row not in records:
            raise UserError(
                f"{cell.row}: {TABLE} has no record of it at this scale, and {FILE} names records; "
                "leave it out, or leave out --write"
            )
    if absent := [run.folder for run in asked.needs(asked.tables[TABLE])[1] if not run.is_here()]:
        raise UserError(f"{absent[0]}: is missing; train it first: python -m pipeline.plan")


def read_kept() -> list[list[str]]:
    """The lines that are kept already."""
    if not FILE.is_file():
        return []
    with FILE.open(newline="") as file:
        return list(csv.reader(file))[1:]


def main() -> None:
    """A line for each row, the reference first; exits where a trained row is not here."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuts", description=__doc__)
    parser.add_argument("images", nargs="?", type=int, default=200)
    parser.add_argument("--rows", nargs="+", default=[], help="some rows; the reference is added")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the figures in data/cuts.csv")
    args = parser.parse_args()

    plan = load_plan()
    reference, records = plan.tables[TABLE].spec["entry"]["reference"], describe(plan)
    rows = list(dict.fromkeys([reference, *args.rows])) if args.rows else []
    asked = [build_params(args.images, rows, is_cut=is_cut) for is_cut in (True, False)]
    check(Plan(asked[0]), records if args.write else None)
    cut, full = (judge(params, args.cores) for params in asked)

    lines = []
    for row in cut:
        hidden = cut[row]["adaptive_worst"] - full[row]["adaptive_worst"]
        print(
            f"{row:16s} core {cut[row]['core_worst']:5.1f} -> {full[row]['core_worst']:5.1f}   "
            f"adaptive {cut[row]['adaptive_worst']:5.1f} -> {full[row]['adaptive_worst']:5.1f}   "
            f"hidden {hidden:4.1f}"
        )
        lines.append(
            [
                row,
                records.get(row, ""),
                args.images,
                round(cut[row]["adaptive_worst"], 3),
                round(full[row]["adaptive_worst"], 3),
            ]
        )
    print(f"fair: at most {UNFAIR} points more hidden than of {reference}; n = {args.images}")

    if args.write:
        measured = {line[0] for line in lines}
        kept = [line for line in read_kept() if line[0] not in measured]
        with FILE.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([KEYS, *kept, *lines])


if __name__ == "__main__":
    report(lambda _: main(), is_job=False)
