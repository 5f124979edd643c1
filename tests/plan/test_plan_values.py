"""Coercion by field type, inheritance, and epochs that follow the number of epochs."""

from fractions import Fraction

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.params.values import coerce, inherit, only, rescale, section


def value_of(kind, value, factor=Fraction(1), **others):
    """One value coerced to a type; `others` are values of other radii."""
    types = {"x": kind, **dict.fromkeys(others, "Radius")}
    return coerce({"x": value, **others}, types, "attacks.a", eps_factor=factor)["x"]


def refusal(function, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    "kind, value, wanted",
    [
        ("int", 3, 3),
        ("int", 0, 0),
        ("float", 1, 1.0),
        ("float", 1.0, 1.0),
        ("float", "8/255", 8 / 255),
        ("float", " 8 / 255 ", 8 / 255),
        ("float", "0.5", 0.5),
        ("float", 0.00001, 1e-5),
        ("bool", True, True),
        ("str", "linf", "linf"),
        ("str", "a_b-2", "a_b-2"),
        ("Epoch", 7, 7),
        ("Attack", "none", "none"),
        ("Parent", "teacher", "teacher"),
        ("Radius", "8/255", 8 / 255),
        ("Radius", 0, 0.0),
        ("list[int]", [1, 2], [1, 2]),
        ("list[float]", [1, "1/2"], [1.0, 0.5]),
        ("list[int]", (1, 2), [1, 2]),
        ("Literal['ce', 'kl']", "kl", "kl"),
        ("Literal[1, 2]", 2, 2),
    ],
)
def test_a_value_becomes_its_fields_type(kind, value, wanted):
    found = value_of(kind, value)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    "kind, value, problem",
    [
        ("int", 1.0, "1.0 is not a whole number"),
        ("int", True, "True is not a whole number"),
        ("int", "3", "'3' is not a whole number"),
        ("int", -1, "-1 is too few; write 0 or more"),
        ("int", 10**20, "100000000000000000000 is not between 0 and 9007199254740992"),
        ("Epoch", None, "None is not a whole number"),
        ("float", True, "True is not a number or a fraction such as 8/255"),
        ("float", "1e-4", "'1e-4' is not a number or a fraction such as 8/255"),
        ("float", "8/0", "'8/0' is not a number or a fraction such as 8/255"),
        ("float", float("nan"), "nan is not a number or a fraction such as 8/255"),
        ("float", float("inf"), "inf is not a number or a fraction such as 8/255"),
        ("float", [1], "[1] is not a number or a fraction such as 8/255"),
        ("float", 10**101, "is too large for a float"),
        pytest.param("float", 10**5000, "is too large for a float", id="5001 digits"),
        ("bool", 1, "1 is not true or false"),
        ("bool", "yes", "'yes' is not true or false"),
        ("str", 3, "3 is not a plain word"),
        ("str", "a b", "'a b' is not a plain word"),
        ("str", "ü", "'ü' is not a plain word"),
        ("str", "../x", "'../x' is not a plain word"),
        ("Radius", -1, "-1 is negative; a radius is at least 0"),
        ("Radius", "eps/5", "'eps/5' is not a number or a fraction such as 8/255"),
        ("list[int]", 3, "3 is not a list"),
        ("list[int]", [1, "a"], "'a' is not a whole number"),
        ("Literal['ce', 'kl']", "cee", "'cee' is not one of ce, kl (nearest: ce)"),
        ("Literal[1, 2]", 1.0, "1.0 is not one of 1, 2"),
        ("Literal[1, 2]", True, "True is not one of 1, 2"),
        ("dict[str, int]", {}, "the plan does not know field type dict[str, int]"),
    ],
)
def test_another_value_is_refused_by_name(kind, value, problem):
    assert refusal(value_of, kind, value).startswith(f"params.yaml: attacks.a.x: {problem}")


def test_equal_numbers_become_equal_bytes_however_they_are_written():
    assert repr(value_of("float", 1)) == repr(value_of("float", "1.0")) == "1.0"
    assert value_of("float", "1/2") == value_of("float", 0.5) == value_of("float", "0.50")


@pytest.mark.parametrize("eps", ["8/255", 0.031, 1])
def test_radii_and_steps_relative_to_eps_are_multiplied_by_the_factor(eps):
    factor = Fraction(51, 8)
    assert value_of("Radius", "8/255", factor) == 0.2
    scaled = value_of("Radius", "eps/5", factor, eps=eps)
    assert scaled == pytest.approx(float(Fraction(str(eps)) * factor / 5), rel=1e-15)
    assert value_of("float", 2, factor, eps=eps) == 2.0  # no radius


def test_a_step_that_is_no_part_of_eps_is_refused():
    for step in ("eps/0", "eps/-5", "eps/0.5", "eps/x", "eps", "eps/"):
        assert "params.yaml: attacks.a.x" in refusal(value_of, "Radius", step, eps="8/255")


def test_unknown_and_missing_keys_are_named():
    types = {"beta": "float", "steps": "int"}
    entry = {"beta": 6, "bata": 7}
    found = refusal(coerce, entry, types, "methods.trades", eps_factor=Fraction(1))
    assert found == "params.yaml: methods.trades.bata: no such key (nearest: beta)"
    found = refusal(coerce, {"beta": 6}, types, "methods.trades", eps_factor=Fraction(1))
    assert found == "params.yaml: methods.trades: key steps is missing; add it"
    assert only({"beta": 1}, types, "methods.trades") is None


def test_an_entry_is_its_base_plus_its_own_keys():
    entries = {"a": {"x": 1, "y": 2}, "b": {"base": "a", "y": 3}, "c": {"base": "b", "z": [4]}}
    assert inherit(entries, "attacks", "c") == ("a", {"x": 1, "y": 3, "z": [4]})
    assert entries["c"] == {"base": "b", "z": [4]}


@pytest.mark.parametrize(
    "entries, problem",
    [
        ({}, "attacks: no entry 'a'"),
        ({"a": {"base": "aa"}}, "attacks.a.base: no entry 'aa' (nearest: a)"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, "attacks.b.base: goes in a circle"),
        ({"a": {"base": ["a"]}}, "attacks.a.base: no entry ['a']"),
    ],
)
def test_a_base_that_leads_nowhere_is_refused(entries, problem):
    assert refusal(inherit, entries, "attacks", "a").startswith(f"params.yaml: {problem}")


@pytest.mark.parametrize(
    "value, problem",
    [
        (3, "attacks: must be a mapping"),
        ({"a": 3}, "attacks.a: must be a mapping, found 3"),
        ({"A": {}}, "attacks.A: a name is lower case letters, digits and _"),
        ({"a-b": {}}, "attacks.a-b: a name is lower case letters, digits and _"),
        ({"none": {}}, "attacks.none: a name is lower case letters, digits and _, and not none"),
    ],
)
def test_a_section_is_a_mapping_of_names_to_mappings(value, problem):
    assert refusal(section, {"attacks": value}, "attacks").startswith(f"params.yaml: {problem}")


@given(st.lists(st.integers(0, 500), max_size=6), st.integers(1, 500), st.integers(1, 500))
def test_rescaled_epochs_keep_their_order_and_are_at_least_1(epochs, old, new):
    entry = {"at": 3, "all": sorted(epochs), "k": 9}
    found = rescale(entry, {"at": "Epoch", "all": "list[Epoch]", "k": "int"}, old, new)
    assert found["all"] == sorted(found["all"]) and found["k"] == 9
    for before, after in zip([3, *entry["all"]], [found["at"], *found["all"]], strict=True):
        assert (after == 0) == (before == 0) and (before == 0 or after >= 1)
        exact = Fraction(before * new, old)
        assert abs(after - exact) <= Fraction(1, 2) or after == 1
        assert before != old or after == new


def test_epochs_of_a_training_that_is_not_cut_stay():
    assert rescale({"at": 3, "k": 1}, {"at": "Epoch", "k": "int"}, 7, 7) == {"at": 3, "k": 1}


def test_a_variant_takes_a_key_back_from_its_base_with_recipe():
    asked = tiny.params()
    asked["methods"]["clean"] = {"base": "trades", "attack": "none", "lr": 0.5}
    asked["methods"]["again"] = {"base": "clean", "attack": "recipe", "lr": "recipe"}
    asked["methods"]["plain"] = {"base": "pgd_at"}
    of = {name: Plan(asked).entries.method(name, tiny.SETTING)[1] for name in asked["methods"]}
    assert (of["clean"]["attack"], of["clean"]["lr"]) == ("none", 0.5)
    assert of["again"] == of["plain"]
