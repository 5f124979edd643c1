"""Every key of params.yaml and of the papers' pages, as docs/params.md lists it."""

import argparse
import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.job.report import report
from pipeline.plan.graph import figures
from pipeline.plan.params import checks, entries, schema
from pipeline.plan.params.schema import ROOT
from pipeline.tools.keys import COMPONENTS, FIELDS, INTRODUCTION, KEYS

HEAD = ("| key | type | default | meaning |", "|---|---|---|---|")


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for section in entries.SECTIONS:
        what, keys = KEYS[section]
        lines += ["", f"## {section}", "", what]
        if keys:
            lines += ["", *HEAD, *(_format_row(key, *said) for key, said in keys.items())]
        if section == "recipes":
            path = ROOT / "pipeline" / "contracts" / "recipe.py"
            lines += ["", *list_fields(schema.class_fields(path, "Recipe"), path, checks.USUAL)]
        if section in COMPONENTS:
            lines += _list_components(section)
    return "\n".join(lines) + "\n"


def _list_components(kind: str) -> list[str]:
    """A heading, a line and a table of fields for every file of a shelf."""
    lines = []
    for name in schema.available(kind):
        if kind == "figures" and name == figures.TABLES_OWN:
            continue
        path = ROOT / "pipeline" / kind / f"{name}.py"
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = " ".join(docstring.split("\n\n")[0].split())
        lines += ["", f"### {kind}: {name}", "", first]

        component = schema.component(kind, name)
        if component.types:
            lines += ["", *list_fields(component.types, path, component.usual)]
    return lines


def list_fields(types: dict[str, str], path: Path, usual: Mapping[str, Any]) -> list[str]:
    """A table of a class's fields, those with a usual value optional; meanings are comments."""
    comments = _read_comments(path)
    return [
        *HEAD,
        *(
            _format_row(
                k, _spell_type(t), _spell_default(k, usual), comments.get(k, FIELDS.get(k, ""))
            )
            for k, t in types.items()
        ),
    ]


def _spell_default(key: str, usual: Mapping[str, Any]) -> str:
    return f"`{json.dumps(usual[key])}`" if key in usual else "must be given"


def _format_row(key: str, kind: str, default: str, meaning: str) -> str:
    cells = (f"`{key}`", kind, default, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spell_type(annotation: str) -> str:
    """A field's type in words."""
    if annotation.startswith("list["):
        return f"list of {_spell_type(annotation[5:-1])}"
    if annotation.startswith("Literal["):
        choices = ast.literal_eval(f"({annotation[len('Literal[') : -1]},)")
        return ", ".join(f"`{choice}`" for choice in choices)
    return NAMES.get(annotation, annotation)


NAMES = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "word",
    "Epoch": "epoch; a scale that cuts `epochs` cuts it alike",
    "Radius": "radius; follows the data set's stand-in; `eps/5` is a part of eps",
    "Attack": "entry of `attacks`, or none",
    "Arch": "entry of `archs`, or same",
    "Place": "a file or folder of yours; in no name",
    "Parent": "entry of `parents`, or none",
    "Start": "entry of `parents` with as many members of the same arch, or none",
    "Earlier": "combination of the members trained before, or none",
    "Arguments": "any other keys, handed on",
}


def _read_comments(path: Path) -> dict[str, str]:
    """Comments above and beside the fields of a file's classes, and of those it imports."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    meanings: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            other = ROOT / f"{str(node.module).replace('.', '/')}.py"
            if other.parent.name in (path.parent.name, "contracts") and other.is_file():
                meanings |= _read_comments(other)

    lines = text.splitlines()
    for group in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        for item in group.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                comment = _read_comment(lines, item.lineno - 1)
                meanings |= {item.target.id.removesuffix("_"): comment} if comment else {}
    return meanings


def _read_comment(lines: list[str], at: int) -> str:
    """The comment lines above a line of code, and the comment at its end."""
    first = at
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    parts = [line.strip().lstrip("# ") for line in lines[first:at]]

    beside = re.search(r"  # (.*)$", lines[at])
    return " ".join([*parts, *([beside[1]] if beside else [])])


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline params", description=__doc__)
    parser.parse_args(argv)
    print(page(), end="")


if __name__ == "__main__":
    report(main)
