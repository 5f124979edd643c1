"""A dot plot of a table: one line a row, one colour and marker a column, bars are intervals."""

from typing import Any

from matplotlib.figure import Figure

from pipeline.tables.canvas import HOLLOW, Pictures, drawn, looks
from pipeline.tables.labels import read

HEIGHT = 0.065  # inches of a row that each of its columns takes


def draw(details: dict[str, Any], title: str) -> Pictures:
    """Rows {label: {column: {mean, low, high}}} in percent.

    A row's red flags stand behind its name; accuracies that are not ranked are hollow.
    """
    labels = list(details)
    columns = list(dict.fromkeys(c for row in details.values() for c in row if _is_shown(row[c])))
    found = [row[c] for row in details.values() for c in columns if c in row]
    # margins of probability may lie below 0
    least = min((100 * min(v["mean"], v["low"] or v["mean"]) for v in found), default=0.0)
    height = len(labels) * max(0.36, HEIGHT * (len(columns) + 2)) + 1.6

    def paint(sheet: Figure) -> None:
        axes = sheet.subplots()
        for i, (column, look) in enumerate(zip(columns, looks(), strict=False)):
            # Columns of one row stand side by side within a line, so that bars do not overlap.
            offset = 0.7 * ((i + 0.5) / len(columns) - 0.5)
            rows = [(y + offset, details[n]) for y, n in enumerate(labels) if column in details[n]]
            _points(axes, column, rows, look)

        for line in range(len(labels) - 1):
            axes.axhline(line + 0.5, color="0.85", linewidth=0.6)
        axes.set_yticks(range(len(labels)), [_name(name, details[name]) for name in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(min(least, 0) - 2, 102)
        axes.set_xlabel("accuracy, % (bar: 95 % interval; hollow: not ranked)")
        axes.grid(axis="x", alpha=0.3)
        if columns:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return drawn((8, height), title, paint)


def _is_shown(value: Any) -> bool:
    return isinstance(value, dict) and "mean" in value


def _name(label: str, row: dict[str, Any]) -> str:
    """A row with its red flags, or why it has no numbers."""
    if row.get("status", "done") != "done":
        return f"{read(label)} ({row['status']})"
    flags = " ".join(row.get("flags", {}))
    return f"{read(label)}\n[{flags}]" if flags else read(label)


def _points(axes: Any, column: str, rows: list[tuple[float, Any]], look: dict[str, Any]) -> None:
    """A column's points, those of worst cases that are not ranked hollow."""
    name = read(column)
    for hollow in (False, True):
        shown = [(y, row[column]) for y, row in rows if _is_hollow(column, row) == hollow]
        if not shown:
            continue
        axes.errorbar(
            [100 * v["mean"] for _, v in shown],
            [y for y, _ in shown],
            xerr=[[_length(v, v[end]) for _, v in shown] for end in ("low", "high")],
            fmt=look["marker"],
            color=look["color"],
            markerfacecolor=HOLLOW if hollow else look["color"],
            markersize=5,
            linewidth=1,
            label=name,
        )
        name = "_nolegend_"


def _is_hollow(column: str, row: dict[str, Any]) -> bool:
    return column in row.get("not_ranked", ())


def _length(value: dict[str, Any], end: float | None) -> float:
    """Of a bar from the mean to one end of its interval, in points; 0 where there is none."""
    return 0.0 if end is None else 100 * abs(end - value["mean"])
