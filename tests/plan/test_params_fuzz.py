"""Any edit of params.yaml either loads or is refused in one line: never another exception.

PLAN_FUZZ_CASES sets the number of cases of each kind (default 40).
"""

import copy
import functools
import os
import random
import re
from pathlib import Path

import pytest
from projects import published

from pipeline.errors import UserError
from pipeline.plan import load_plan, workflow
from pipeline.plan.state import states
from pipeline.share import writer

CASES = int(os.environ.get("PLAN_FUZZ_CASES", "40"))
KEPT = ("table1", "aute_table1", "aute_table4", "aute_beta", "soe_table1", "red_table1")
LEAVES = (-1, 0, 1, 2, 10**30, -(10**400), 0.0, -0.5, 1.5, 1e-9, 1e300, float("inf"), float("nan"))
WORDS = ("", " ", "none", "x y", "ünï", "../../etc", "a" * 300, "eps/5", "eps/0", "8/0", "-8/255")
WORDS += ("1/3", "1e-4", "1e400", "010", "on", "~", "base", "null", "self", "vote", "best", "\n")
VALUES = (*LEAVES, *WORDS, True, False, None, [], {}, [[]], ["a"], {"a": 1}, [1, 1], [None], [{}])
SCRAPS = (":", "{", "}", "[", "]", ",", "#", "&a ", "*a", "- ", "\t", "'", '"', "<<: ", "? ", "| ")
SCRAPS += ("!!python/object:x ", "!!set ", "!!float ", "\x00", "\ufeff", "\u2028", "0x1F", "1:30")
SCRAPS += ("%YAML 1.1\n---\n", "---\n", "...\n", "2020-01-01", "1_000", "\n")


@functools.cache
def cut():
    """params.yaml with fewer tables: the same grammar, sooner read."""
    tree = published()
    for section in (tree, *tree["scales"].values()):
        known = section.get("tables", {})
        section["tables"] = {name: known[name] for name in KEPT if name in known}
    figures = tree["figures"]
    kept = {name for name, entry in figures.items() if entry.get("table") in KEPT}
    kept = {name for name in kept if figures[name].get("base", name) in kept}
    for section in (tree, *tree["scales"].values()):
        known = section.get("figures", {})
        section["figures"] = {name: known[name] for name in known if name in kept}
    tree["scales"]["paper"] = {}
    return tree


@functools.cache
def cut_text():
    return writer.text(cut())


def containers(tree):
    """Every mapping and list of a tree."""
    found = [tree]
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, dict | list):
            found += containers(value)
    return found


def keys_of(container):
    return list(container if isinstance(container, dict) else range(len(container)))


def mutate_tree(draw, tree):
    """One change of one value or key, now and then to another one of the file."""
    places = [c for c in containers(tree) if c]
    place, other = draw.choice(places), draw.choice(places)
    key, foreign = draw.choice(keys_of(place)), draw.choice(keys_of(other))
    kind = draw.choice(["value", "value", "copy", "swap", "delete", "add", "rename"])
    if kind == "value":
        place[key] = copy.deepcopy(draw.choice(VALUES))
    elif kind == "copy":
        place[key] = copy.deepcopy(other[foreign])
    elif kind == "swap":
        place[key], other[foreign] = copy.deepcopy((other[foreign], place[key]))
    elif kind == "delete":
        del place[key]
    elif isinstance(place, dict):
        name = draw.choice([*LEAVES, *WORDS, foreign, f"{key}x"])
        place[name] = place.pop(key) if kind == "rename" else draw.choice(VALUES)
    else:
        place.append(copy.deepcopy(other[foreign]))


def mutate_text(draw, text):
    """One change of characters, tokens or lines."""
    lines, at = text.splitlines(keepends=True), draw.randrange(len(text))
    line = draw.randrange(len(lines))
    kind = draw.choice(["insert", "cut", "token", "drop", "double", "swap", "indent"])
    if kind == "insert":
        return text[:at] + draw.choice(SCRAPS) + text[at:]
    if kind == "cut":
        return text[:at] + text[at + draw.randrange(1, 40) :]
    if kind == "token":
        tokens = list(re.finditer(r"[\w./]+", text))
        chosen = draw.choice(tokens)
        new = draw.choice([str(draw.choice(VALUES)), draw.choice(tokens)[0]])
        return text[: chosen.start()] + new + text[chosen.end() :]
    if kind == "swap":
        lines[line], lines[-line] = lines[-line], lines[line]
    else:
        lines[line] = {"drop": "", "double": lines[line] * 2, "indent": "  " + lines[line]}[kind]
    return "".join(lines)


def check(text):
    """Load a text and ask everything of its plan; a refusal is one line that names the file."""
    Path("params.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        plan = load_plan()
        workflow.summary(plan)
        workflow.average_pattern(plan)
        states(plan, plan.tables.values())
        assert plan.entries.threads >= 1
        return True
    except UserError as error:
        assert re.match(r"params\.yaml\b", str(error)), str(error)
        assert len(str(error).splitlines()) == 1, str(error)
        return False


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_file_itself_loads():
    assert check(writer.text(published()))
    assert check(cut_text())


def changed_tree(case):
    """params.yaml with one or two values or keys changed."""
    draw, tree = random.Random(f"tree {case}"), copy.deepcopy(cut())
    tree["scale"] = draw.choice(list(tree["scales"]))
    for _ in range(draw.choice([1, 1, 2])):
        mutate_tree(draw, tree)
    return writer.text(tree)


def changed_text(case):
    """params.yaml with up to five changes of its text."""
    draw, text = random.Random(f"text {case}"), cut_text()
    for _ in range(draw.choice([1, 1, 2, 5])):
        text = mutate_text(draw, text)
    return text


@pytest.mark.parametrize("changed", [changed_tree, changed_text])
def test_a_changed_file_loads_or_is_refused_in_one_line(changed):
    outcomes = {check(changed(case)) for case in range(CASES)}
    assert outcomes == {True, False}
