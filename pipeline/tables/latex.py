"""A table for a paper: booktabs, percent with 95 % intervals, flags beside the rows."""

from typing import Any

import pandas as pd

from pipeline.tables.labels import name_data, read
from pipeline.tables.markdown import format_difference, format_value
from pipeline.tables.rows import Tabulation


def latex(tabulation: Tabulation, details: dict[str, Any]) -> str:
    """The table of results/<table>.md as LaTeX (packages booktabs and graphicx)."""
    columns = list(tabulation.shown.values())
    lines = []
    for row in tabulation.rows:
        numbers, line = details[row.label], {"method": read(row.label)}
        if row.status == "done":
            line |= {read(column): format_value(numbers, column) for column in columns}
            line |= {"vs reference": format_difference(numbers)}
            line |= {"flags": " ".join(flag.check for flag in row.flags)}
        else:
            line |= {read(columns[0]): row.status}
        lines.append(line)

    names = ["method", *map(read, columns), "vs reference", "flags"]
    frame = pd.DataFrame([[line.get(name, "") for name in names] for line in lines], columns=names)
    body = frame.to_latex(index=False, escape=True, column_format="l" * frame.shape[1])
    spec, plan = tabulation.table.spec["entry"], tabulation.plan
    data = name_data({name: plan.entries.stand_in(name) for name in spec["datasets"]})
    about = f"{spec['title']}. {data}; scale {plan.scale}; percent with 95 % intervals."
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_escaped(about)}}}\n\\label{{tab:{tabulation.table.name}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body.rstrip()}}}\n\\end{{table}}\n"
    )


def _escaped(text: str) -> str:
    for sign in ("&", "%", "#", "_"):
        text = text.replace(sign, f"\\{sign}")
    return text
