"""Who may import whom: the contracts of pyproject.toml, and what they would not see."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from projects import ROOT

from pipeline.plan.params.code import imports

LINTER = Path(sys.executable).with_name("lint-imports")
ROOMS = ("archs", "attacks", "averages", "datasets", "figures", "methods")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [LINTER, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def house(tmp_path):
    """A copy to break."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_keeps_the_contracts():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("methods/trades.py", "from pipeline.training.trainer import Trainer", "a room imports"),
        ("methods/trades.py", "from pipeline.attacks.pgd import Pgd", "a room imports"),
        ("methods/trades.py", "from pipeline.store import files", "core and contracts alone"),
        ("core/losses.py", "from pipeline.contracts import maker", "a room imports"),
        ("store/files.py", "def lazy():\n    from pipeline.job import report", "a room imports"),
        ("plan/state.py", "from pipeline.core import losses", "no tensors"),
        ("core/norms.py", "from pipeline.core import ascent", "no circle"),
    ],
)
def test_an_import_against_the_picture_is_found(house, file, line, broken):
    path = house / "pipeline" / file
    path.write_text(f"{path.read_text()}\n\n{line}\n")
    done = lint(house)
    assert done.returncode == 1
    assert [v for v in done.stdout.splitlines() if broken in v and "BROKEN" in v], done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_a_component_imports_of_its_own_room_only_parts(room):
    """`_part.py` is shared and belongs to its users' identity; a component is reached by name. An
    attack may be made of others, and imports names of their files, never a module."""
    for path in sorted((ROOT / "pipeline" / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for module, name, _ in imports(node, f"pipeline.{room}"):
                if f"{module}.".startswith(f"pipeline.{room}."):
                    assert name is not None and module != f"pipeline.{room}", path
                    assert module.split(".")[2].startswith("_") or room == "attacks", path


READERS = ["tabulate", "claims", "tools.lint", "tools.compare", "tools.costs", "plan"]


@pytest.mark.parametrize("command", READERS)
def test_what_only_reads_starts_without_torch(command):
    """Which takes longer to import than a table to build."""
    code = f"import sys, pipeline.{command}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_commands_are_listed_and_run_by_their_short_names():
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    listed = run().stdout
    assert "\n  train            Train one run\n" in listed and "\n  compare  " in listed
    assert run("plan", "--help").stdout.startswith("usage: python -m pipeline.plan")
    wrong = run("cmpare")
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and "compare" in wrong.stderr


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "pipeline/README.md", "docs/*.md"]
)
def test_every_file_that_a_page_names_is_there(page):
    there = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if ".venv" not in p.parts}
    there |= {name for p in ROOT.glob("docs/add-a*.md") for name in pages.files(p.name)}  # written
    for path in ROOT.glob(page):
        named = re.findall(r"`([\w/]+\.py)`", path.read_text())
        lost = [n for n in named if not any(f"/{p}".endswith(f"/{n}") for p in there)]
        assert lost == [], f"{path.relative_to(ROOT)} names files that are not there"
