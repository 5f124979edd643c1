"""Mistakes in a component of one's own that its source shows: each is one line before any job."""

import sys
from types import ModuleType

import pytest

from pipeline.errors import UserError
from pipeline.loading import registry
from pipeline.plan.params import schema
from pipeline.plan.params.checks import find_component
from pipeline.plan.params.schema import component
from pipeline.plan.params.values import coerce

METHOD = """from dataclasses import dataclass
from typing import ClassVar
from pipeline.contracts.fields import Attack, Parent, Radius
from pipeline.contracts.method import Method

@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    tau: float

    def loss(self, training, index, batch, adversarial):
        return self.tau
"""
ATTACK = """from dataclasses import dataclass
from pipeline.contracts.fields import Radius

@dataclass(frozen=True, kw_only=True)
class Mine:
    eps: Radius

    def __call__(self, model, images, labels, draws):
        return images
"""
SOURCES = {"methods": METHOD, "attacks": ATTACK}


@pytest.fixture
def write(tmp_path):
    """Lay a component with one text of its source replaced; the folder."""
    for room in schema.KINDS:
        (tmp_path / "pipeline" / room).mkdir(parents=True)

    def lay(kind, old="", new=""):
        assert old in SOURCES[kind]
        path = tmp_path / "pipeline" / kind / "mine.py"
        path.write_text(SOURCES[kind].replace(old, new, 1))
        return tmp_path

    return lay


FIELD, DECORATOR = "    tau: float", "@dataclass(frozen=True, kw_only=True)"
CASES = [
    # what Python says as the job begins
    ("methods", DECORATOR, "", "mine.py:7: write @dataclass(frozen=True, kw_only=True) above"),
    ("methods", DECORATOR, "@dataclass", "write @dataclass(frozen=True"),
    ("methods", DECORATOR, "@dataclass(kw_only=True)", "write @dataclass(frozen=True"),
    ("methods", FIELD, "    tau: list[int] = [0, 1]", "Mine.tau has a value that may change"),
    ("methods", "(Method)", "", "class Mine does not inherit Method; import that"),
    ("methods", "def loss", "def losses", "class Mine has no loss or step"),
    ("attacks", "def __call__", "def call", "class Mine has no __call__"),
    # what the plan reads of an entry, or would never build
    ("attacks", "eps: Radius", "eps: Radius = 0.03", "Mine.eps is stated by every entry"),
    ("attacks", "eps: Radius", "eps: Radius\n    norm: str = 'l2'", "Mine.norm is stated by every"),
    ("methods", FIELD, "    other: Parent = 'teacher'", "Mine.other is stated by every entry"),
    ("methods", FIELD, "    other: Attack = 'none'", "Mine.other is stated"),
    ("methods", FIELD, "    begin: Epoch = 60", "Mine.begin is stated"),
    ("methods", FIELD, "    begin: list[Epoch] = (60, 70)", "Mine.begin is stated"),
    ("methods", FIELD, "    joint: bool = True", "Mine.joint is stated"),
    ("methods", FIELD, "    combine: str = 'mean_prob'", "Mine.combine is stated"),
    ("methods", FIELD, "    others: list[Attack]", "field others: list[Attack] is not built"),
    ("methods", FIELD, "    others: list[Parent]", "field others: list[Parent] is not built"),
    # radii that no stand-in and no table would change
    ("methods", FIELD, "    eps: float", "field eps is of type float"),
    ("attacks", "eps: Radius", "eps: float", "field eps is of type float"),
    ("attacks", "eps: Radius", "epsilon: Radius", "field epsilon is a Radius and there is no eps"),
    # ranges
    ("methods", FIELD, "    ranges: ClassVar = {'other': (0, 1)}", "ranges has two numbers for"),
    ("methods", FIELD, "    ranges: ClassVar = {'tau': 1}", "ranges has two numbers for"),
]


@pytest.mark.parametrize("kind, old, new, problem", CASES, ids=range(len(CASES)))
def test_a_class_that_cannot_work_is_refused(write, kind, old, new, problem):
    component(kind, "mine", write(kind))
    with pytest.raises(UserError) as caught:
        component(kind, "mine", write(kind, old, new))
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_class_says_what_its_own_numbers_may_be(write):
    """Where they have the name of another component's, whose range they would be judged by."""
    range_of = "    strength: float\n    ranges: ClassVar = {'strength': (-1, 3)}"
    found = component("methods", "mine", write("methods", FIELD, range_of))
    assert found.ranges == {"strength": [-1, 3]} and "ranges" not in found.types

    def judge(value, ranges_of):
        types, entry = {"strength": "float"}, {"strength": value}
        return coerce(entry, types, "methods.mine", eps_factor=1, ranges_of=ranges_of)

    assert judge(-1, found.ranges) == {"strength": -1}
    with pytest.raises(UserError, match="strength: 4 is not between -1 and 3 "):
        judge(4, found.ranges)
    with pytest.raises(UserError, match="0 and 1; a class of your own may say otherwise by `rang"):
        judge(2, {})


def test_ranges_are_of_numbers_and_a_radius_is_judged_as_it_was_written(write):
    text = "    tau: str\n    ranges: ClassVar = {'tau': (0, 1)}"
    with pytest.raises(UserError, match="ranges has two numbers for a field"):
        component("methods", "mine", write("methods", FIELD, text))
    bounds, asked = {"eps": [0, 0.1]}, {"eps": "8/255"}
    found = coerce(asked, {"eps": "Radius"}, "attacks.a", eps_factor=6, ranges_of=bounds)
    assert found["eps"] == pytest.approx(6 * 8 / 255)
    with pytest.raises(UserError, match="eps: 0.125 is not between 0 and 0.1"):
        coerce({"eps": "1/8"}, {"eps": "Radius"}, "attacks.a", eps_factor=6, ranges_of=bounds)


@pytest.mark.parametrize("kind, old, new", [
    ("attacks", "    eps: Radius", "    eps: Radius\n    combine: str = 'sum'"),  # no method's
    ("attacks", "    def __call__(self, model, images, labels, draws):\n        return images\n",
     "    __call__ = lambda self, model, images, labels, draws: images\n"),
    ("methods", FIELD, "    from typing import TYPE_CHECKING\n    if TYPE_CHECKING:\n"
     f"        from pipeline.plan import Plan\n{FIELD}"),
])  # fmt: skip
def test_what_works_is_not_refused(write, kind, old, new):
    assert component(kind, "mine", write(kind, old, new)).name == "mine"


def test_a_tuple_is_the_default_of_a_list(write):
    found = component("methods", "mine", write("methods", FIELD, "    tau: list[int] = (0, 1)"))
    assert found.usual == {"tau": [0, 1]}


TAKEN = [("methods", name) for name in ("augment", "momentum", "weights", "members", "twin")]
TAKEN += [("attacks", name) for name in ("surrogate", "only", "uncut", "base")]


@pytest.mark.parametrize("kind, field", TAKEN)
def test_a_field_called_like_another_key_of_its_entries_is_refused(write, monkeypatch, kind, field):
    """The plan said that the key was missing, where it stood in the entry."""
    fields = {"methods": "    tau: float", "attacks": "    eps: Radius"}
    root = write(kind, fields[kind], f"{fields[kind]}\n    {field}: float")
    found = component(kind, "mine", root)
    monkeypatch.setattr(schema, "component", lambda *_: found)
    with pytest.raises(UserError, match=f"{kind}/mine.py: field {field} is another key of"):
        find_component(kind, "mine", ["momentum", "augment"])


def test_a_named_tuple_beside_the_class_is_no_component(write, monkeypatch):
    pair = "from collections import namedtuple\nPair = namedtuple('Pair', 'a b')\n"
    root = write("methods", "@data", f"{pair}\n@data")
    assert component("methods", "mine", root).types["tau"] == "float"
    module = ModuleType("pipeline.methods.mine")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec((root / "pipeline/methods/mine.py").read_text().replace("tau: float", ""), vars(module))
    assert registry.component_class("methods", "mine").__name__ == "Mine"
