"""results/report.html: one file that opens without the internet and is small enough to mail."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from pipeline.errors import UserError
from pipeline.pages import charts
from pipeline.pages.cards import cards, collect_radii
from pipeline.plan import Figure, Plan, Table
from pipeline.plan.params.schema import ROOT
from pipeline.plan.state import describe_data
from pipeline.tables.markdown import points_of

HEADLINES = ("adaptive_worst", "core_worst")
TEMPLATE = ROOT / "pipeline" / "pages" / "report.html.j2"


def render(plan: Plan, table: Table, others: list[Table | Figure], texts: list[Path]) -> str:
    """The page of one table, and of whatever other tables, figures and texts there are."""
    details = rows_of(table)
    sweeps: dict[str, dict[str, charts.Points]] = {}
    for other in others:
        if isinstance(other, Table):
            for victim, found in collect_radii(other, rows_of(other)):
                sweeps.setdefault(victim, {}).update(found)

    known = cards(plan, table, details, sweeps)
    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    # Strict: a name that the template lacks is an error, not a hole in the page.
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"shown": shown, "order": order, "hover": hover, "slug": name_anchors()}

    return environment.get_template(TEMPLATE.name).render(
        scale=plan.scale,
        title=table.spec["entry"]["title"],
        data=describe_data(plan, [table]),
        columns=columns_of(details),
        headline=headline(details),
        details=details,
        cards={card.label: card for card in known},
        papers=sorted({paper for card in known for paper in card.papers}),
        families=sorted({card.family for card in known}),
        checks=sorted(
            {c for numbers in details.values() for c in numbers.get("flags", {})}, key=_read_number
        ),
        dot=_draw_dot,
        sections=_list_sections(others),
        texts={path.stem: (_render_markdown(path), _find_picture(path)) for path in texts},
        script=_read_library("dt_bundle.js"),
        style=_read_library("dt_bundle.css"),
    )


def rows_of(table: Table) -> dict[str, Any]:
    """What a finished table's .json says of each row."""
    path = table.path.with_suffix(".json")
    try:
        rows: dict[str, Any] = json.loads(path.read_text("utf-8"))["rows"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path}: holds no table; run: snakemake -c4 {table.path}") from None
    return rows


def columns_of(details: dict[str, Any]) -> list[str]:
    """Accuracies and costs of the rows, in their order."""
    hidden = ("method", "dataset", "arch", "flags", "status", "not_trusted", "not_ranked", "notes")
    known = [
        pair for numbers in details.values() for pair in numbers.items() if pair[0] not in hidden
    ]
    return list(dict.fromkeys([c for c, v in known if isinstance(v, dict)] + [c for c, _ in known]))


def headline(details: dict[str, Any]) -> str | None:
    """The column that ranks."""
    return next((c for c in HEADLINES if c in columns_of(details)), None)


def shown(value: Any) -> str:
    """A value as the table for people has it."""
    if isinstance(value, dict):
        return f"{100 * value['mean']:.1f}"
    if isinstance(value, int) and value >= 100_000:
        return f"{value:.2e}"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def order(value: Any) -> str:
    """What a column is sorted by."""
    return str(value["mean"] if isinstance(value, dict) else -1 if value is None else value)


def hover(value: Any) -> str:
    """Interval, images, seeds, the published number and the difference to the reference."""
    if not isinstance(value, dict):
        return ""
    parts = ["no interval of two seeds"]
    if value["low"] is not None:
        parts = [f"95 % interval {100 * value['low']:.1f} to {100 * value['high']:.1f}"]

    parts.append(f"{value['n']} images, {value['seeds']} seed{'s' if value['seeds'] > 1 else ''}")
    if value.get("published") is not None:
        parts.append(f"published {100 * value['published']:.1f}")
    if "against" in value:
        against = value["against"]
        parts.append(f"against {against['row']}: {against.get('refused') or points_of(against)}")
    return "; ".join(parts)


def _draw_dot(value: Any, hollow: bool) -> Any:
    if not isinstance(value, dict):
        return ""
    drawn = charts.dot(value["mean"], value["low"], value["high"], hollow)
    return Markup(drawn)


def name_anchors() -> Callable[[str], str]:
    """The anchor of each name on one page; names that differ in other signs alone are numbered."""
    named: dict[str, str] = {}
    counts: Counter[str] = Counter()

    def slug(name: str) -> str:
        if name not in named:
            plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            counts[plain] += 1
            named[name] = plain if counts[plain] == 1 else f"{plain}-no-{counts[plain]}"
        return named[name]

    return slug


def _list_sections(targets: list[Table | Figure]) -> dict[str, list[dict[str, Any]]]:
    """Tables and figures by the paper whose folder they lie in."""
    by_paper: dict[str, list[dict[str, Any]]] = {}
    for target in targets:
        paper = target.path.parent.name if target.path.parent.name != "results" else "every method"
        section: dict[str, Any] = {"name": target.name, "path": target.path.as_posix()}
        if isinstance(target, Table):
            rows = rows_of(target)
            section |= {"title": target.spec["entry"]["title"], "rows": rows, "picture": ""}
            section["columns"] = columns_of(rows)
        else:
            section |= {"title": target.spec["title"], "rows": {}, "picture": picture(target.path)}
        by_paper.setdefault(paper, []).append(section)
    return by_paper


def picture(path: Path) -> str:
    """A picture as a data URL of 256 colours, which is enough for lines and small to mail."""
    buffer = io.BytesIO()
    with Image.open(path) as drawn:
        drawn.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _render_markdown(path: Path) -> Any:
    """A page of ours as HTML; whatever HTML stands in it stays text."""
    text = MarkdownIt("commonmark", {"html": False}).enable("table").render(path.read_text("utf-8"))
    return Markup(text)


def _find_picture(path: Path) -> str:
    """The picture of the same name, where there is one."""
    drawn = path.with_suffix(".png")
    return picture(drawn) if drawn.is_file() else ""


def _read_library(name: str) -> str:
    """A file of DataTables as itables brings it along."""
    return (resources.files("itables") / "html" / name).read_text("utf-8")


def _read_number(check: str) -> int:
    return int(check[1:])
