"""Components as the plan reads them from their source, without an import."""

import os

import pytest

from pipeline.errors import UserError
from pipeline.plan.params import schema
from pipeline.plan.params.schema import available, class_fields, component
from pipeline.plan.params.words import nearest


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project that components are read from."""
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    monkeypatch.setattr(schema, "EQUAL", tmp_path / "equal.json")
    for kind in schema.KINDS:
        (tmp_path / "pipeline" / kind).mkdir(parents=True)
    return tmp_path


def written(project, text, name="pipeline/archs/thing.py"):
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(text, encoding="utf-8")
    return project


def thing(fields):
    """The source of an arch with these fields."""
    return f"@dataclass(frozen=True)\nclass Thing:\n{fields}    def build(self): return 1\n"


def test_fields_are_annotations_in_order_after_those_of_the_bases(project):
    written(project, "class Base:\n    joint: bool\n", "pipeline/contracts/base.py")
    text = "from pipeline.contracts.base import Base as B\nclass _Own(B):\n    k: int\n"
    text += thing("    C: ClassVar[int] = 3\n    eps: Radius\n    a = 1\n")
    found = component("archs", "thing", written(project, text.replace("Thing", "Thing(_Own)")))
    assert list(found.types.items()) == [("joint", "bool"), ("k", "int"), ("eps", "Radius")]
    assert class_fields(project / "pipeline/contracts/base.py", "Base") == {"joint": "bool"}


def test_a_field_with_a_value_in_its_class_is_one_that_entries_need_not_state(project):
    text = thing("    C: ClassVar[int] = 3\n    eps: Radius\n    norm: str = 'linf'\n")
    assert component("archs", "thing", written(project, text)).usual == {"norm": "linf"}
    with pytest.raises(UserError, match="Thing.k has a value that is no constant"):
        component("archs", "thing", written(project, thing("    k: int = f()\n")))


def test_a_field_named_as_python_itself_ends_in_a_line_and_its_key_does_not(project):
    text = thing("    lambda_: float = 0.5\n    eps_: float = 0.1\n")
    found = component("archs", "thing", written(project, text))
    assert found.types == {"lambda": "float", "eps_": "float"}
    assert found.usual == {"lambda": 0.5, "eps_": 0.1}


@pytest.mark.parametrize(
    "text, problem",
    [
        ("x = 1\n", "one public class (found: none)"),
        ("class A: pass\nclass B: pass\n", "one public class (found: A, B)"),
        ("class A(:\n", "thing.py:1: invalid syntax"),
        ("class A:\n  x = '\0'\n", "thing.py"),
    ],
)
def test_a_file_that_is_no_component_is_refused(project, text, problem):
    with pytest.raises(UserError) as caught:
        component("archs", "thing", written(project, text))
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_the_nearest_and_the_remedy(project):
    written(project, "class Trades: pass\n", "pipeline/methods/trades.py")
    with pytest.raises(UserError) as caught:
        component("methods", "tradez", project)
    assert str(caught.value) == (
        "params.yaml: methods.tradez: no file pipeline/methods/tradez.py (nearest: trades); "
        "write it, or give the entry `base:`"
    )


def test_a_changed_file_is_read_again(project):
    before = component("archs", "thing", written(project, thing("    x: int\n")))
    path = written(project, thing("    y: int\n")) / "pipeline/archs/thing.py"
    os.utime(path, ns=(1, 1))
    after = component("archs", "thing", project)
    assert after.code != before.code and set(after.types) == {"y"}


def test_letters_beyond_ascii_are_read_as_what_they_are(project):
    plain = component("archs", "thing", written(project, thing("    x = 'ü'\n"))).code
    written(project, thing("    x = '\\xfc'  # ß\n"), "pipeline/archs/other.py")
    assert component("archs", "other", project).code == plain


def test_the_folder_lists_its_components(project):
    written(project, "", "pipeline/archs/__init__.py")
    assert available("archs", written(project, "class A: pass\n")) == ["thing"]


def test_the_nearest_name_is_offered_only_when_near():
    assert nearest("tradez", ["trades", "aute"]) == " (nearest: trades)"
    assert nearest("x", ["trades", "aute"]) == ""
    assert nearest(3, ["trades"]) == ""
