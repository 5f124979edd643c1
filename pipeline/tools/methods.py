"""Every method from its own docstring, as docs/methods.md lists it."""

import argparse
import ast
from pathlib import Path

from pipeline.job.report import report
from pipeline.plan.params import values
from pipeline.plan.params.reader import PARAMS, read
from pipeline.plan.params.schema import ROOT, available, component
from pipeline.tools.params import list_fields

INTRODUCTION = """# Every method

Written by `python -m pipeline methods > docs/methods.md` from the files of `pipeline/methods/`; a
test keeps it true. Each says which equations it computes and where it departs from the authors'
code. Its entries in `params.yaml` and on the papers' pages are the variants that tables can show;
the members' keys `joint` and `combine` are explained in the [glossary](glossary.md)."""
SHARED = ("joint", "combine")


def page() -> str:
    """The whole page."""
    entries = read(ROOT / PARAMS)["methods"]
    users: dict[str, list[str]] = {}
    for name in entries:
        users.setdefault(values.inherit(entries, "methods", name)[0], []).append(name)
    names = available("methods")
    return "\n".join([INTRODUCTION, *(n for m in names for n in _tell(m, users.get(m, [])))]) + "\n"


def _tell(method: str, entries: list[str]) -> list[str]:
    """A heading, the docstrings as they are written, the fields, the entries."""
    path = Path(ROOT / "pipeline" / "methods" / f"{method}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (found,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    texts = [ast.get_docstring(node) or "" for node in (tree, found)]
    lines = ["", f"## {method}", "", "```text", *"\n\n".join(texts).splitlines(), "```"]

    read = component("methods", method)
    own = {key: kind for key, kind in read.types.items() if key not in SHARED}
    if own:
        lines += ["", *list_fields(own, path, read.usual)]
    return [*lines, "", f"Entries: {', '.join(f'`{name}`' for name in entries)}."]


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline methods", description=__doc__)
    parser.parse_args(argv)
    print(page(), end="")


if __name__ == "__main__":
    report(main)
