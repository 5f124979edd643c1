"""A page's examples, laid in a small project and made there in one process.

`python tests/lib/pages.py TABLE` in such a project trains, judges and tabulates a whole table.
"""

import copy
import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from projects import ROOT, copy_project

FILE = re.compile(r"`(pipeline/[\w/]+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


def files(page: str) -> dict[str, str]:
    """Text of every file that a page of docs/ writes out, by path."""
    return dict(FILE.findall((ROOT / "docs" / page).read_text()))


def blocks(page: str, language: str) -> list[str]:
    """Every block of a page in that language."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def merged(params: dict[str, Any], page: str) -> dict[str, Any]:
    """Parameters with the entries of all yaml blocks, the later one where two name one."""
    changed = copy.deepcopy(params)
    for block in blocks(page, "yaml"):
        for section, entries in yaml.safe_load(block).items():
            changed[section] |= entries
    return changed


def lay(folder: Path, page: str, params: dict[str, Any]) -> Path:
    """A project with the page's files and entries."""
    copy_project(folder, merged(params, page))
    for name, text in files(page).items():
        (folder / name).write_text(text)
    return folder


def run(folder: Path, *words: str) -> str:
    """What a command of Python said in that project, where it must succeed."""
    paths = [str(folder), str(ROOT / "tests/lib"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make(folder: Path, table: str = "mine") -> dict[str, dict[str, str]]:
    """The rows of a table that a process of that project has made, by name."""
    run(folder, __file__, table)
    return rows(folder, table)


def rows(folder: Path, table: str) -> dict[str, dict[str, str]]:
    """The rows of a finished table by name."""
    with (folder / f"results/{table}.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def main() -> None:
    """Everything that a table needs, from raw files on."""
    import tiny

    from pipeline import download, prepare, tabulate
    from pipeline.job import device
    from pipeline.plan import load_plan

    device.select("cpu", 1)
    plan = load_plan()
    table = plan.table(sys.argv[1])
    for name in {run.dataset.name for run in plan.graph.runs.values()}:
        download.main([name])
        prepare.main([name])
    tiny.made(plan, [cell.row for cell in table.cells], table.name)
    tabulate.tabulate(plan, table, False)


if __name__ == "__main__":
    main()
