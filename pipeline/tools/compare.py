"""Two victims on the same images: `python -m pipeline compare A B [--attack NAME]`.

Prints the paired difference with its interval (of these nets from one seed, of the methods from
three), McNemar's test of these nets, the images that flip, and the difference by class. A and B
are victims or rows of a table, NAME is any accuracy that the table's suites and means give, with
the meaning it has there; `--table` names the table. A worst case that is not trusted is compared
with nothing, as in the table.
"""

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.core import intervals
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.flags.flags import UNRANKING, judge
from pipeline.job.report import report
from pipeline.plan import Plan, Table, load_plan
from pipeline.plan.graph.column_names import accuracies
from pipeline.plan.graph.targets import Cell
from pipeline.plan.params.words import nearest
from pipeline.tables.columns import Columns
from pipeline.tables.markdown import points_of
from pipeline.tools.rows import find_cells


@dataclass(frozen=True)
class Side:
    """One victim's verdicts, one vector a seed, on images named by their ids."""

    name: str
    seeds: list[int]
    verdicts: list[Verdicts]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: frozenset[Any] = frozenset()  # what tells these from other images, beside the above
    untrusted: tuple[str, ...] = ()  # checks for which its worst cases are not ranked


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value: the flips of an unbiased coin (McNemar 1947)."""
    flips = only_a + only_b
    return float(binomtest(only_a, flips).pvalue) if flips else 1.0


def bonferroni(p_values: list[float | None]) -> float | None:
    """The p-value that no seed differs: the least times their number (Bonferroni).

    Seeds share their images, so their tests depend on each other: this holds all the same.
    """
    known = [p for p in p_values if p is not None]
    return min(1.0, len(known) * min(known)) if len(known) == len(p_values) else None


def compare(a: Side, b: Side, classes: bool = True) -> dict[str, Any]:
    """Everything that is printed; accuracies as fractions."""
    if len(a.seeds) != len(b.seeds):
        counts = f"{a.name} has {len(a.seeds)} and {b.name} has {len(b.seeds)}"
        raise UserError(f"{counts} seeds: compare two victims by their ids")
    pairs = ((a.ids, b.ids), (a.labels, b.labels))
    if a.images != b.images or not all(np.array_equal(*pair) for pair in pairs):
        raise UserError(f"{a.name} and {b.name} were evaluated on other images: nothing to compare")

    compared: dict[str, Any] = {
        side.name: float(np.mean([v.mean() for v in side.verdicts])) for side in (a, b)
    }
    compared["not_trusted"] = {side.name: side.untrusted for side in (a, b) if side.untrusted}
    if compared["not_trusted"]:
        return compared

    mean = intervals.paired(a.verdicts, b.verdicts)
    compared["paired"] = intervals.numbers(mean) | {"df": mean.df}
    compared["n"], compared["seeds"] = len(a.ids), _compare_seeds(a, b)
    compared["mcnemar"] = bonferroni([seed["mcnemar"] for seed in compared["seeds"]])

    if classes:
        compared["classes"] = {
            int(label): _compare_class(a, b, a.labels == label) for label in np.unique(a.labels)
        }
    return compared


def _compare_seeds(a: Side, b: Side) -> list[dict[str, Any]]:
    """Images on which one side does better, and McNemar's test, which needs yes or no."""
    by_seed = []
    for ours, theirs, u, v in zip(a.seeds, b.seeds, a.verdicts, b.verdicts, strict=True):
        only_a, only_b = a.ids[u > v], b.ids[v > u]
        # A share of members between 0 and 1 is no flip of a coin.
        tested = bool(np.isin([u, v], (0, 1)).all())
        by_seed.append(
            {
                "seed": str(ours) if ours == theirs else f"{ours} and {theirs}",
                "only_a": sorted(only_a.tolist()),
                "only_b": sorted(only_b.tolist()),
                "mcnemar": mcnemar(len(only_a), len(only_b)) if tested else None,
            }
        )
    return by_seed


def _compare_class(a: Side, b: Side, mask: NDArray[np.bool_]) -> dict[str, Any]:
    ours, theirs = ([v[mask] for v in side.verdicts] for side in (a, b))
    return {"n": int(mask.sum()), **intervals.numbers(intervals.paired(ours, theirs))}


def side(plan: Plan, table: Table, name: str, column: str) -> Side:
    """A row of a table, or a victim, under one of the table's accuracies."""
    cells, columns, verdicts = find_cells(plan, table, name), Columns(plan, table), []
    for cell in cells:
        columns.check_weights([record for record, _ in columns.behind(cell, column)])
        verdicts.append(columns.verdict(cell, column))

    images = frozenset(columns.find_images(cells, column))
    if len(images) > 1:
        raise UserError(f"{name}: its seeds were evaluated on other images")
    arrays = columns.read(columns.behind(cells[0], column)[0][0])
    seeds = [cell.seed for cell in cells]
    untrusted = _list_doubts(cells, columns) if columns.is_worst(column) else ()
    return Side(name, seeds, verdicts, arrays["ids"], arrays["labels"], images, untrusted)


def _list_doubts(cells: list[Cell], columns: Columns) -> tuple[str, ...]:
    """The checks of the records here for which these victims' worst cases are not ranked."""
    here = [[r for r in cell.records.values() if r.path.exists()] for cell in cells]
    doubts = {check for records in here for check in judge(records, columns.read).doubts}
    return tuple(check for check in UNRANKING if check in doubts)


def _find_column(plan: Plan, table: Table, name: str) -> str:
    """The accuracy of that name, in params.yaml or as the table shows it."""
    columns, entry = Columns(plan, table), table.spec["entry"]
    plain = {shown: column for column, shown in columns.shown.items()}.get(name, name)
    known = {*accuracies(plan.entries, entry, [plain]), *columns.made}
    if plain not in known:
        raise UserError(f"{table.path} has no accuracy {name!r}{nearest(name, known)}")
    return plain


def text(compared: dict[str, Any], a: str, b: str, column: str) -> str:
    """The comparison in percent, for people."""
    if doubts := compared["not_trusted"]:
        said = "; ".join(f"{name} ({' '.join(checks)})" for name, checks in doubts.items())
        return (
            f"{column}: {a} {100 * compared[a]:.1f}, {b} {100 * compared[b]:.1f}\n"
            f"not trusted, so compared with nothing: {said}; docs/flags.md says what these mean\n"
        )

    seeds = compared["seeds"]
    lines = [
        f"{column}: {a} {100 * compared[a]:.1f}, {b} {100 * compared[b]:.1f} "
        f"({compared['n']} images, {len(seeds)} seed{'s' if len(seeds) > 1 else ''})",
        f"difference of {_describe_scope(compared['paired'])} {points_of(compared['paired'])}",
        f"these nets: {_describe_test(compared)}",
    ]

    for seed in seeds:
        one = f"; p = {seed['mcnemar']:.3g}" if compared["mcnemar"] is not None else ""
        lines.append(f"seed {seed['seed']}{one}")
        for name, ids in ((a, seed["only_a"]), (b, seed["only_b"])):
            word = "right only with" if one else "more right with"
            lines.append(f"  {word} {name}: {len(ids)} {_list_some(ids)}".rstrip())

    for label, part in compared.get("classes", {}).items():
        lines.append(f"class {label} (n {part['n']}): {points_of(part)}")
    return "\n".join(lines) + "\n"


def _describe_test(compared: dict[str, Any]) -> str:
    if compared["mcnemar"] is None:
        return "no McNemar test: verdicts are no plain yes or no"
    count = len(compared["seeds"])
    how = f" (Bonferroni: {count} times the least of {count} seeds)" if count > 1 else ""
    return f"McNemar p = {compared['mcnemar']:.3g}{how}"


def _describe_scope(paired: dict[str, Any]) -> str:
    """What the difference and its interval are a statement about."""
    return {
        "nets": "these nets (one seed: not of the methods)",
        "none": "the methods (two seeds: no interval)",
        "methods": f"the methods (seeds and images vary; t with {paired['df']:.1f} df)",
    }[paired["of"]]


def _list_some(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return f"({shown}{', ...' if len(ids) > 10 else ''})" if ids else ""


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline compare", description=__doc__)
    parser.add_argument("a", help="row of the table, or id of a victim")
    parser.add_argument("b", help="the other one")
    parser.add_argument("--table", default="results/table1.csv", help="default: %(default)s")
    parser.add_argument(
        "--attack", default="adaptive_worst", help="an accuracy of the table; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    args = parser.parse_args(argv)
    plan = load_plan()

    table = plan.table(args.table)
    column = _find_column(plan, table, args.attack)
    a, b = (side(plan, table, name, column) for name in (args.a, args.b))
    compared = compare(a, b)
    print(
        json.dumps(compared, indent=1) if args.json else text(compared, a.name, b.name, args.attack)
    )


if __name__ == "__main__":
    report(main)
