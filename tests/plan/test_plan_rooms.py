"""A component's name covers what its class takes from files of its own room, and no more."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from projects import ROOT

from pipeline.errors import UserError
from pipeline.plan.params import code, schema
from pipeline.plan.params.schema import KINDS, available, component

ROOMS = (*KINDS, "figures")
# Shared files that no name covers, since nothing in them is part of what is computed: where data
# come from (their sha256 is checked), and what figure.py hands to a kind (`core.figure`).
OUTSIDE = {"datasets/_torchvision", "figures/_exhibit"}


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


def users():
    """Components that import from each shared file of their room, directly or not, by its path."""
    found = {}
    for room in ROOMS:
        texts = {p.stem: p.read_text() for p in (ROOT / "pipeline" / room).glob("*.py")}
        imports = {
            name: set(re.findall(rf"^from pipeline\.{room}\.(\w+) import", text, re.M))
            for name, text in texts.items()
        }
        for name in texts:
            reached = imports[name]
            while more := {n for part in reached for n in imports[part]} - reached:
                reached = reached | more
            for part in reached:
                found.setdefault(f"{room}/{part}", set()).add(name)
            if name.startswith("_") and name != "__init__":
                found.setdefault(f"{room}/{name}", set())
    for path, names in found.items():
        room, _, part = path.partition("/")
        own = set() if part.startswith("_") else {part}
        is_outside = path in OUTSIDE
        found[path] = set() if is_outside else {n for n in names if not n.startswith("_")} | own
    return found


class Edit(ast.NodeTransformer):
    """Other numbers, and one more statement in every function."""

    def visit_Constant(self, node):
        return ast.Constant(77777) if type(node.value) in (int, float) else node

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.body.insert(0, ast.parse("edited = 77777").body[0])
        return node


def test_known_parts_have_their_known_users():
    found = users()
    assert found["methods/_red"] == {"red", "ps_red"}
    assert found["methods/_amalgamation"] == {"at_aka", "cat_aka"}
    assert found["attacks/_apgd"] == {"apgd", "autoattack", "malt"}
    assert {"regions", "weight_landscape"} < found["figures/_surface"]
    assert set(found) > OUTSIDE


@pytest.mark.parametrize("part", sorted(users()))
def test_an_edit_of_a_shared_file_renames_its_users_and_nothing_else(part, tree):
    before = names_of(tree)
    path = tree / "pipeline" / f"{part}.py"
    path.write_text(
        ast.unparse(ast.fix_missing_locations(Edit().visit(ast.parse(path.read_text()))))
    )
    after = names_of(tree)
    room = part.partition("/")[0]
    assert {n for n in before if before[n] != after[n]} == {(room, user) for user in users()[part]}


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


OWN = ["from pipeline.my_losses import my_loss", "from pipeline.mylib.x import my_loss"]
OWN += ["from helpers import my_loss", "import helpers as h", "from mylib.x import my_loss"]
OWN += ["from .sub.mine import my_loss", "from ..my_losses import my_loss"]
OWN += ["from pipeline import my_losses", "from pipeline.training.ema import Ema"]


@pytest.mark.parametrize("line", OWN)
@pytest.mark.parametrize("place", ["methods/red.py", "methods/_red.py"])
def test_own_code_that_no_name_covers_is_refused_with_the_place_where_one_does(line, place, tree):
    """Such a loss could be changed, and the run kept its name and its weights."""
    for name in ("pipeline/my_losses", "pipeline/mylib/x", "helpers", "mylib/x"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / f"{name}.py").write_text("my_loss = 1\n")
    path = tree / "pipeline" / place
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(UserError, match=rf"{place}:1: .*methods/_part\.py") as caught:
        component("methods", "red", tree)
    assert "\n" not in str(caught.value)


def test_a_module_that_comes_to_lie_beside_the_pipeline_is_seen(tree):
    """Though what was read of the same components is remembered."""
    path = tree / "pipeline/methods/red.py"
    path.write_text(f"import helpers\n{path.read_text()}")
    component("methods", "red", tree)
    (tree / "helpers.py").write_text("")
    schema._remembered.cache_clear()  # as in a new process
    schema._component.cache_clear()
    code._defined_and_imported.cache_clear()
    with pytest.raises(UserError, match="red.py:1: helpers is in no result's name"):
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
    text = ["from pipeline.contracts.method import Method"] + ([] if inside else [line])
    text += ["@dataclass(frozen=True)", "class Thing(Method):"]
    text += ["    def loss(self):", *(f"        {row}" for row in body)]
    (room / "thing.py").write_text("\n".join(text))
    (room / "_part.py").write_text("BASE = 2\nLEVEL = BASE + 1\nOTHER = 3\n")
    before = component("methods", "thing", tree).code
    (room / "_part.py").write_text("BASE = 2\nLEVEL = BASE + 1\nOTHER = 40\n")
    assert component("methods", "thing", tree).code == before
    (room / "_part.py").write_text("BASE = 20\nLEVEL = BASE + 1\nOTHER = 3\n")
    assert component("methods", "thing", tree).code != before


def test_what_was_read_of_the_same_code_is_not_parsed_again(tree, monkeypatch):
    read, names = schema._component.__wrapped__, names_of(tree)
    memo = tree / schema.MEMO
    assert memo.stat().st_size > 10_000

    def count_parsed():
        schema._remembered.cache_clear()  # as in a new process
        parsed = []
        monkeypatch.setattr(schema, "_component", lambda *of: parsed.append(of[1]) or read(*of))
        assert names_of(tree) == names
        return len(parsed)

    figures = len(available("figures", tree))  # which no plan's start reads
    assert count_parsed() == figures

    contract = tree / "pipeline" / "contracts.py"  # a file of any room may be a class's base
    contract.write_text("")
    assert count_parsed() > figures
    memo.write_bytes(memo.read_bytes()[:-1] + b"x")
    assert count_parsed() > figures
    assert count_parsed() == figures
