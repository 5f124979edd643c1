"""A component's name covers what its class takes from files of its own room, and no more."""

import ast
import shutil
from pathlib import Path

import pytest
from projects import ROOT

from pipeline.errors import UserError
from pipeline.plan.params.schema import KINDS, available, component

ROOMS = (*KINDS, "figures")
FIGURES = {"curves", "histogram", "image_landscape", "particles", "peers", "regions",
           "weight_landscape", "weights"}  # fmt: skip
# Whose names an edit of each shared file moves. Two files are no part of what is computed: where
# data come from (their sha256 is checked), and what figure.py hands to a kind (`core.figure`).
USERS = {
    "methods/_adp": {"adp", "aute"},
    "methods/_amalgamation": {"at_aka", "cat_aka"},
    "methods/_diverse": {"adp", "gal"},
    "methods/_gradients": {"gal", "ps_red", "red"},
    "methods/_red": {"ps_red", "red"},
    "attacks/apgd": {"apgd", "autoattack"},
    "attacks/fab": {"fab", "autoattack"},
    "attacks/square": {"square", "autoattack"},
    "datasets/_cifar": {"cifar10", "cifar100"},
    "datasets/_torchvision": set(),
    "figures/_canvas": FIGURES,
    "figures/_exhibit": set(),
    "figures/_surface": {"image_landscape", "regions", "weight_landscape"},
}


@pytest.fixture
def tree(tmp_path):
    """A copy of the rooms that components lie in."""
    for room in ROOMS:
        shutil.copytree(ROOT / "pipeline" / room, tmp_path / "pipeline" / room)
    return tmp_path


def names_of(tree):
    """The hash of every component."""
    kinds = {kind: available(kind, tree) for kind in ROOMS}
    return {(k, n): component(k, n, tree).code for k, names in kinds.items() for n in names}


def shared_files():
    """`_part.py` of every room, and components that another file of their room imports from."""
    for room in ROOMS:
        folder = ROOT / "pipeline" / room
        text = "".join(path.read_text() for path in folder.glob("*.py"))
        for path in sorted(folder.glob("*.py")):
            is_part = path.stem.startswith("_") and path.stem != "__init__"
            if is_part or f"from pipeline.{room}.{path.stem} import" in text:
                yield f"{room}/{path.stem}"


def edit_numbers(path):
    """Another number in place of every number of the code."""
    lines = path.read_text().splitlines(keepends=True)
    numbers = [
        (node.lineno, node.col_offset, node.end_col_offset)
        for node in ast.walk(ast.parse("".join(lines)))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    ]
    assert numbers, f"{path.name}: no number to edit"
    for line, start, end in sorted(numbers, reverse=True):
        text = lines[line - 1]
        lines[line - 1] = f"{text[:start]}77777{text[end:]}"
    path.write_text("".join(lines))


def test_every_shared_file_has_its_users_here():
    assert set(shared_files()) == set(USERS)


@pytest.mark.parametrize("part", USERS)
def test_other_numbers_in_a_shared_file_rename_its_users_and_nothing_else(part, tree):
    before = names_of(tree)
    edit_numbers(tree / "pipeline" / f"{part}.py")
    after = names_of(tree)
    room = part.partition("/")[0]
    assert {n for n in before if before[n] != after[n]} == {(room, u) for u in USERS[part]}


@pytest.mark.parametrize(
    "line",
    [
        "from pipeline.methods import _red",
        "from pipeline.methods import _red as red",
        "import pipeline.methods._red",
        "import pipeline.methods._red as red",
        "from pipeline.methods._red import *",
        "from . import _red",
        "from ._red import *",
        "from ..methods import _red",
    ],
)
def test_a_module_of_the_own_room_is_refused(line, tree):
    path = tree / "pipeline/methods/red.py"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(UserError, match=r"red\.py:1: import names from files of pipeline\.methods"):
        component("methods", "red", tree)


@pytest.mark.parametrize(
    "line, inside",
    [
        ("from pipeline.methods._part import LEVEL", False),
        ("from pipeline.methods._part import LEVEL as level", False),
        ("from ._part import LEVEL", False),
        ("from ..methods._part import LEVEL", False),
        ("from pipeline.methods._part import LEVEL", True),  # where it is used
    ],
)
def test_a_name_is_followed_however_it_is_imported(line, inside, tree):
    room: Path = tree / "pipeline/methods"
    used = line.rpartition(" ")[2]
    body = [line, f"return {used}"] if inside else [f"return {used}"]
    text = [] if inside else [line]
    text += ["class Thing:", "    def loss(self):", *(f"        {row}" for row in body)]
    (room / "thing.py").write_text("\n".join(text))
    (room / "_part.py").write_text("BASE = 2\nLEVEL = BASE + 1\nOTHER = 3\n")
    before = component("methods", "thing", tree).code
    (room / "_part.py").write_text("BASE = 2\nLEVEL = BASE + 1\nOTHER = 40\n")
    assert component("methods", "thing", tree).code == before
    (room / "_part.py").write_text("BASE = 20\nLEVEL = BASE + 1\nOTHER = 3\n")
    assert component("methods", "thing", tree).code != before
