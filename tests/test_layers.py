"""Imports point down only, seen in the source: commands > methods > attacks, averages > archs,
datasets, figures > the shared core > the plan; and nobody imports in a circle.
"""

import ast
import graphlib

import pytest
from projects import ROOT

PIPELINE = ROOT / "pipeline"
FOLDERS = ("methods", "attacks", "averages", "archs", "datasets", "figures", "plan")
COMMANDS = ("download", "prepare", "train", "average", "transfer", "evaluate", "tabulate", "record")
COMMANDS += ("claims",)
LOWEST = ("errors", "fields", "recipe")  # words that plan and components share
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
INSIDE = ("attacks", "core", "plan", "words")  # layers whose modules may import each other


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
    if head in COMMANDS:
        return "commands"
    return "words" if head in LOWEST else "core"


def imports(module):
    """Modules of the pipeline that one imports, wherever the line stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in MODULES else str(node.module) for n in names}
    return {name for name in found if name in MODULES and name != "pipeline"}


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


def test_commands_methods_and_attacks_are_where_the_rules_expect_them():
    found = {layer(module) for module in MODULES}
    assert found == set(HEIGHT)
    for command in COMMANDS:
        path = PIPELINE / f"{command}.py"
        assert not path.exists() or "def main(" in path.read_text()


@pytest.mark.parametrize("folder", ["methods", "attacks", "averages", "archs", "datasets"])
def test_every_component_is_reached_by_name_only(folder):
    """Nothing but a component of its own kind, or a test, imports a component."""
    users = {m for m in MODULES for i in imports(m) if i.startswith(f"pipeline.{folder}.")}
    assert {layer(m) for m in users} <= {"attacks"}
