"""A dot plot of a table: one line a row, one colour an accuracy column, bars are intervals."""

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen before


def draw(details: dict[str, Any], title: str) -> bytes:
    """PNG of rows {label: {column: {mean, low, high}}} in percent."""
    labels = list(details)
    columns = list(
        dict.fromkeys(
            c
            for row in details.values()
            for c, v in row.items()
            if isinstance(v, dict) and "mean" in v
        )
    )

    figure, axes = plt.subplots(figsize=(8, 0.4 * len(labels) + 1.6), layout="constrained")
    for i, column in enumerate(columns):
        rows = [
            (y, details[name][column]) for y, name in enumerate(labels) if column in details[name]
        ]
        # Columns of one row stand side by side within half a line, so that bars do not overlap.
        offset = 0.5 * ((i + 0.5) / len(columns) - 0.5)
        axes.errorbar(
            [100 * v["mean"] for _, v in rows],
            [y + offset for y, _ in rows],
            xerr=[
                [_length(v, v["low"]) for _, v in rows],
                [_length(v, v["high"]) for _, v in rows],
            ],
            fmt="o",
            markersize=4,
            linewidth=1,
            label=column,
        )

    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel("accuracy, % (95 % interval)")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    if columns:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _length(value: dict[str, Any], end: float | None) -> float:
    """Of a bar from the mean to one end of its interval, in points; 0 where there is none."""
    return 0.0 if end is None else 100 * abs(end - value["mean"])
