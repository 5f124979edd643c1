"""Components as the plan reads them from their source, without an import."""

import os

import pytest

from pipeline.errors import UserError
from pipeline.plan.params import checks, schema
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


def written(project, text, name="pipeline/methods/thing.py"):
    (project / name).write_text(text, encoding="utf-8")
    return project


def test_fields_are_annotations_in_order_after_those_of_the_bases(project):
    written(project, "class Base:\n    joint: bool\n", "pipeline/base.py")
    text = "from pipeline.base import Base as B\nclass _Own(B):\n    k: int\n"
    text += "class Thing(_Own):\n    C: ClassVar[int] = 3\n    eps: Radius\n    a = 1\n"
    found = component("methods", "thing", written(project, text))
    assert list(found.types.items()) == [("joint", "bool"), ("k", "int"), ("eps", "Radius")]
    assert class_fields(project / "pipeline/base.py", "Base") == {"joint": "bool"}


def test_a_field_with_a_value_in_its_class_is_one_that_entries_need_not_state(project):
    text = "class Thing:\n    C: ClassVar[int] = 3\n    eps: Radius\n    norm: str = 'linf'\n"
    assert component("methods", "thing", written(project, text)).usual == {"norm": "linf"}
    with pytest.raises(UserError, match="Thing.k has a value that is no constant"):
        component("methods", "thing", written(project, "class Thing:\n    k: int = f()\n"))


def test_a_field_named_as_python_itself_ends_in_a_line_and_its_key_does_not(project):
    text = "class Thing:\n    lambda_: float = 0.5\n    eps_: float = 0.1\n"
    found = component("methods", "thing", written(project, text))
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
        component("methods", "thing", written(project, text))
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
    before = component("methods", "thing", written(project, "class A:\n    x: int\n"))
    path = written(project, "class A:\n    y: int\n") / "pipeline/methods/thing.py"
    os.utime(path, ns=(1, 1))
    after = component("methods", "thing", project)
    assert after.code != before.code and set(after.types) == {"y"}


def test_letters_beyond_ascii_are_read_as_what_they_are(project):
    plain = component("methods", "thing", written(project, "class A:\n    x = 'ü'\n")).code
    written(project, "class A:\n    x = '\\xfc'  # ß\n", "pipeline/methods/other.py")
    assert component("methods", "other", project).code == plain


def test_the_folder_lists_its_components(project):
    written(project, "", "pipeline/methods/__init__.py")
    assert available("methods", written(project, "class A: pass\n")) == ["thing"]


def test_the_nearest_name_is_offered_only_when_near():
    assert nearest("tradez", ["trades", "aute"]) == " (nearest: trades)"
    assert nearest("x", ["trades", "aute"]) == ""
    assert nearest(3, ["trades"]) == ""


def test_a_methods_field_is_no_key_of_recipes():
    with pytest.raises(UserError, match=r"methods/mine.py: field momentum is a key of recipes"):
        checks.own_fields({"momentum": "float"}, {"lr": "float", "momentum": "float"}, "mine")
    assert checks.own_fields({"inertia": "float"}, {"lr": "float"}, "mine") == {"inertia": "float"}
