"""A table for people: percent with 95 % intervals, costs, flags, what was cut."""

from html import escape
from typing import Any

from pipeline.core.intervals import FEWEST
from pipeline.plan.graph.table_entries import find_points
from pipeline.plan.params.checks import compares
from pipeline.tables import starts
from pipeline.tables.columns import HEADLINES
from pipeline.tables.rows import Row, Tabulation


def markdown(tabulation: Tabulation, details: dict[str, Any]) -> str:
    """The table for people: percent with 95 % intervals, costs, flags, what was cut."""
    spec = tabulation.table.spec
    columns = list(tabulation.shown.values())
    about = " ".join([_describe_table(tabulation), *_name_best(tabulation, details)])

    lines = [f"# {escape(spec['entry']['title'], quote=False)}", "", about, ""]
    names = ["method", *name_columns(tabulation), "vs reference", "flags"]
    lines.append("| " + " | ".join(names) + " |")
    lines.append("|---" * (len(columns) + 3) + "|")

    for row in tabulation.rows:
        cells = spell_row(row, details[row.label], columns)
        lines.append("| " + " | ".join([row.label, *cells]) + " |")

    lines += [*_list_spent(columns, details), *_list_starts(tabulation)]
    fired = [f"- {r.label}: {f.check}: {f.text}" for r in tabulation.rows for f in r.flags]
    if fired:
        lines += ["", "Red flags:", "", *fired]

    remarks = [f"- {row.label}: {text}" for row in tabulation.rows for text in row.notes]
    lines += ["", "Notes:", "", *remarks] if remarks else []
    return "\n".join(lines) + "\n"


def spell_row(row: Row, numbers: dict[str, Any], columns: list[str]) -> list[str]:
    """What stands in a row behind its name; of one in the making, what is known and its status."""
    if row.status == "done":
        texts = [_format_value(numbers, column) for column in columns]
        return [*texts, _format_difference(numbers), " ".join(f.check for f in row.flags)]

    known = {c: _format_value(numbers, c) for c in columns if isinstance(numbers.get(c), dict)}
    if not known:
        return [row.status] + [""] * (len(columns) + 1)
    return [*(known.get(column, "") for column in columns), "", row.status]


def name_columns(tabulation: Tabulation) -> list[str]:
    """The columns' names, with `(cut)` where the scale cuts an attack behind and none says so."""
    cells = [row.cells[0] for row in tabulation.rows]
    named = []
    for column, name in tabulation.shown.items():
        asked = [] if "_lite" in name else cells
        is_cut = any(tabulation.is_cut(cell, column) for cell in asked)
        named.append(f"{name} (cut)" if is_cut else name)
    return named


def _describe_table(tabulation: Tabulation) -> str:
    entries, entry = tabulation.plan.entries, tabulation.table.spec["entry"]
    named = {d: entries.stand_in(d)[0] for d in entry["datasets"]}
    archs = [a for d in entry["datasets"] for a in find_points(entry, "archs", d)]
    named |= {a: entries.arch(a).name for a in archs}
    victims = [cell.victim for cell in tabulation.table.cells if cell.victim]
    named |= {asked: used for victim in victims for used, asked in victim.stood_in}

    factors = {d: float(entries.stand_in(d)[1]) for d in entry["datasets"]}
    stand_ins = [
        f"{used} standing in for {name}{_describe_factor(factors.get(name, 1.0))}"
        for name, used in named.items()
        if used != name
    ]

    cuts = [f"{a} {_describe_cut(c)}" for a, c in tabulation.cuts.items()]
    training = entries.recipe_cut(entry["recipe"])
    cuts += [f"training {_describe_cut(training)}"] if training else []

    small = _list_left_out(tabulation)
    against = (
        f"{' or '.join(HEADLINES)} (the first that is a column, else the last accuracy) minus "
        f"{entry['reference']}{_describe_size(tabulation)}, paired"
    )

    parts = [
        f"Scale {entries.scale_name}; {_describe_images(tabulation)}; seeds {entry['seeds']}; "
        f"checkpoint {entry['checkpoint']}; "
        f"percent [95 % interval{_describe_scope(len(entry['seeds']))}]; "
        f"vs reference: {against if entry['reference'] != 'none' else 'none'}.",
        *([f"Stand-ins: {', '.join(stand_ins)}."] if stand_ins else []),
        *([f"Cut by the scale: {'; '.join(cuts)}."] if cuts else []),
        *_list_uncompared(tabulation),
        *([f"Left out, for want of classes: {', '.join(small)}."] if small else []),
        *_explain_names(tabulation),
    ]
    return " ".join(parts)


def _describe_size(tabulation: Tabulation) -> str:
    """That a reference has as many members as its row, unless its entry has a number of its own."""
    entries, graph = tabulation.plan.entries, tabulation.plan.graph
    name = tabulation.table.spec["entry"]["reference"]
    if name == "none" or "members" in entries.entry(graph.kinds[name], name)[1]:
        return ""
    return " with as many members"


def _list_uncompared(tabulation: Tabulation) -> list[str]:
    """A line with the rows whose reference the table does not show; none where it asks for none."""
    name = tabulation.table.spec["entry"]["reference"]
    done = [row for row in tabulation.rows if row.status == "done"]
    lost = [row.label for row in done if tabulation.find_reference(row) is None]
    if name == "none" or not lost:
        return []
    return [f"Compared with none, for the table has no such {name}: {', '.join(lost)}."]


def _list_left_out(tabulation: Tabulation) -> list[str]:
    """Attacks whose loss compares more classes than one of the table's data sets has."""
    cells = tabulation.table.cells
    counts = {int(cell.victim.dataset.fields["classes"]) for cell in cells if cell.victim}
    asked = {attack for suite in tabulation.table.suites.values() for attack in suite.values()}
    entry = tabulation.plan.entries.entry
    needs = {attack: compares(entry("attacks", attack)[1]) for attack in sorted(asked)}
    return [f"{a} compares {n}" for a, n in needs.items() if counts and n > min(counts)]


def _describe_factor(factor: float) -> str:
    """What a stand-in does to radii, those of a user's own l2 and l1 attacks included."""
    return "" if factor == 1 else f" (every radius of params.yaml times {factor:g}, in any norm)"


def _describe_scope(seeds: int) -> str:
    """What the intervals are a statement about, by the number of seeds."""
    if seeds == 1:
        return " of these nets, not of methods: one seed"
    return " of methods" if seeds >= FEWEST else ": none of two seeds"


def _explain_names(tabulation: Tabulation) -> list[str]:
    """What the names of some columns mean."""
    shown, distances = tabulation.shown, tabulation.columns.distances

    sentences = []
    firsts = [row.cells[0] for row in tabulation.rows]
    beside = [
        column
        for column in tabulation.accuracies
        if any(tabulation.published(cell, column) is not None for cell in firsts)
    ]
    if beside:
        sentences.append(
            f"In brackets what is printed: {'; '.join(tabulation.reported.names(beside))}."
        )
    if any(name != column for column, name in shown.items()):
        sentences.append("_lite: AutoAttack cut by the scale, so not AutoAttack.")
    if distances:
        of = "of the images right when clean and fooled; -: none, or a random victim"
        what = {"l2": "median l2 (pixels in [0, 1])", "pixels": "mean number of pixels changed"}
        columns = [f"{shown[c]} {what[c.rpartition('_')[2]]}" for c in distances]
        sentences.append(f"No percent, {of}: {'; '.join(columns)}.")
    return sentences


def _describe_images(tabulation: Tabulation) -> str:
    """How many images of which split."""
    records = [r for c in tabulation.table.cells for r in c.records.values()]
    splits = {record.split: record.images for record in records}
    if "validation" not in splits:
        return f"{tabulation.table.spec['entry']['images']} test images"
    return " and ".join(f"{count} {split} images" for split, count in splits.items())


def _name_best(tabulation: Tabulation, details: dict[str, Any]) -> list[str]:
    """On validation images, the row with the highest last accuracy: the one to choose."""
    splits = {r.split for c in tabulation.table.cells for r in c.records.values()}
    last = tabulation.shown[tabulation.accuracies[-1]]
    done = [row.label for row in tabulation.rows if row.status == "done"]
    ranked = [label for label in done if last not in details[label].get("not_ranked", ())]
    if splits != {"validation"} or not ranked:
        return []

    top = max(ranked, key=lambda label: details[label][last]["mean"])
    return [f"Best on them: {top}."]


def _list_spent(columns: list[str], details: dict[str, Any]) -> list[str]:
    """Gradient evaluations an image behind each worst case, row by row."""
    lines = []
    for column in (c for c in columns if c.endswith("_worst")):
        spent = {
            row: numbers[column]["backwards"]
            for row, numbers in details.items()
            if "backwards" in numbers.get(column, ())  # a mean spends what its parts do
        }
        rows = ", ".join(f"{row} {value:.0f}" for row, value in spent.items())
        lines += ["", f"Gradient evaluations an image behind {column}: {rows}."] if rows else []
    return lines


def _list_starts(tabulation: Tabulation) -> list[str]:
    """Rows that start from the same weights, and rows of fewer nets than the table has seeds."""
    done = [row for row in tabulation.rows if row.status == "done"]
    shared = starts.groups(tabulation.plan, done)
    seeds = len(tabulation.table.spec["entry"]["seeds"])
    few = [row.label for row in done if len(row.cells) < seeds]
    lines = []
    if shared:
        groups = "; ".join(", ".join(labels) for labels in shared)
        lines += ["", f"From the same initial weights, seed by seed: {groups}."]
    if few:
        lines += ["", f"One net whatever the seed, intervals of it alone: {', '.join(few)}."]
    return lines


def _describe_cut(cut: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in cut.items())


def _format_value(numbers: dict[str, Any], column: str) -> str:
    """What stands in a cell: percent and interval of an accuracy, in brackets where it is not
    ranked; the published number behind it."""
    value = numbers.get(column, "")
    if isinstance(value, dict):
        text = f"{100 * value['mean']:.1f}"
        if value["low"] is not None:
            text += f" [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
        # A worst case that is not trusted stands in brackets: it is not ranked.
        text = f"[{text}]" if column in numbers.get("not_ranked", ()) else text
        published = value["published"]
        return text if published is None else f"{text} ({100 * published:.1f})"

    if isinstance(value, int) and value >= 100_000:
        return f"{value:.2e}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None:
        return "-"
    return str(value)


def headline(details: dict[str, Any]) -> str | None:
    """The column that ranks: adaptive_worst, else core_worst, else the last accuracy."""
    columns = [c for c, v in details.items() if isinstance(v, dict) and "mean" in v]
    ranking = [c for c in HEADLINES if c in columns] or columns[-1:]
    return ranking[0] if ranking else None


def _format_difference(numbers: dict[str, Any]) -> str:
    """The difference from the reference in points, or why there is none."""
    if numbers.get("not_trusted"):
        return f"not trusted: {numbers['not_trusted']}"
    column = headline(numbers)
    if column is None or "against" not in numbers[column]:
        return ""
    against = numbers[column]["against"]
    return against.get("refused") or points_of(against)


def points_of(difference: dict[str, Any]) -> str:
    """A difference in points, with its interval where it has one."""
    text = f"{100 * difference['difference']:+.1f}"
    if difference["low"] is None:
        return text
    return f"{text} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
