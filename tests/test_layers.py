"""Imports point down only, seen in the source: commands > methods > attacks, averages > archs,
datasets, figures > the shared core > the plan; and nobody imports in a circle.
"""

import ast
import graphlib
import subprocess
import sys

import pytest
from projects import ROOT

PIPELINE = ROOT / "pipeline"
FOLDERS = ("methods", "attacks", "averages", "archs", "datasets", "figures", "plan")
LOWEST = ("errors", "fields", "recipe")  # words that plan and components share
# the last word on an error goes to the job's log, whose module says what the job is
EXCEPTIONS = {("pipeline.errors", "pipeline.joblog")}
HEIGHT = {
    "commands": 6,
    "methods": 5,
    "attacks": 4,
    "averages": 4,
    "archs": 3,
    "datasets": 3,
    "figures": 3,
    "core": 2,
    "plan": 1,
    "words": 0,
}
INSIDE = ("commands", "attacks", "core", "plan", "words")  # whose modules may import each other


def modules():
    """Every module of the pipeline by dotted name, packages by their own."""
    found = {}
    for path in sorted(PIPELINE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer(module):
    _, _, rest = module.partition(".")
    head = rest.partition(".")[0]
    if head in FOLDERS:
        return head
    if head in LOWEST:
        return "words"
    return "commands" if '__name__ == "__main__"' in MODULES[module].read_text() else "core"


def executed(node):
    """The nodes below one, without what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from executed(child)


def imports(module):
    """Modules of the pipeline that one imports, wherever the line stands."""
    found = set()
    for node in executed(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in MODULES else str(node.module) for n in names}
    return {n for n in found if n in MODULES and n != "pipeline" and (module, n) not in EXCEPTIONS}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "pipeline"])
def test_a_module_imports_from_below(module):
    own = layer(module)
    for other in imports(module):
        below = HEIGHT[layer(other)] < HEIGHT[own]
        beside = layer(other) == own and own in INSIDE
        assert below or beside, f"{module} ({own}) imports {other} ({layer(other)})"


def test_no_module_imports_itself_by_way_of_others():
    graph = {m: imports(m) - {m} for m in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_every_layer_has_modules_and_every_stage_is_a_command():
    assert {layer(module) for module in MODULES} == set(HEIGHT)
    for stage in (
        "download",
        "prepare",
        "train",
        "average",
        "transfer",
        "evaluate",
        "tabulate",
        "figure",
    ):
        assert layer(f"pipeline.{stage}") == "commands"


@pytest.mark.parametrize("folder", ["methods", "attacks", "averages", "archs", "datasets"])
def test_every_component_is_reached_by_name_only(folder):
    """Nothing but a component of its own kind, or a test, imports a component."""
    users = {m for m in MODULES for i in imports(m) if i.startswith(f"pipeline.{folder}.")}
    assert {layer(m) for m in users} <= {"attacks"}


@pytest.mark.parametrize("command", ["tabulate", "lint", "compare", "claims", "costs", "plan"])
def test_what_only_reads_starts_without_torch(command):
    """Which takes longer to import than a table to build."""
    code = f"import sys, pipeline.{command}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
