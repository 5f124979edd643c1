"""A table for a paper: booktabs, percent with 95 % intervals, flags beside the rows."""

import re
from typing import Any

import pandas as pd

from pipeline.tables.labels import name_data, read
from pipeline.tables.markdown import name_columns, spell_row
from pipeline.tables.rows import Tabulation

MINUS = re.compile(r"(?<=[\s\[(])-(?=\d)")  # in text mode it would be a hyphen
POWER = re.compile(r"\b(\d(?:\.\d+)?)e\+?(-?)0*(\d+)\b")


def latex(tabulation: Tabulation, details: dict[str, Any]) -> str:
    """The table of results/<table>.md as LaTeX (packages booktabs and graphicx)."""
    columns = list(tabulation.shown.values())
    names = ["method", *map(read, name_columns(tabulation)), "vs reference", "flags"]
    lines = [
        [read(row.label), *spell_row(row, details[row.label], columns)] for row in tabulation.rows
    ]
    frame = pd.DataFrame(lines, columns=names)
    body = typeset(frame.to_latex(index=False, escape=True, column_format="l" * frame.shape[1]))
    spec, plan = tabulation.table.spec["entry"], tabulation.plan
    data = name_data(plan.entries, spec["datasets"])
    about = f"{spec['title']}. {data}; scale {plan.scale}; percent with 95 % intervals."
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_escaped(about)}}}\n\\label{{tab:{tabulation.table.name}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body.rstrip()}}}\n\\end{{table}}\n"
    )


def typeset(body: str) -> str:
    """Numbers as a paper prints them: a minus that is none of a word, powers of ten."""
    return POWER.sub(r"$\1\\cdot10^{\2\3}$", MINUS.sub("$-$", body))


def _escaped(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    words |= {sign: f"\\{sign}" for sign in "&%#_${}"}
    return "".join(words.get(sign, sign) for sign in text)
