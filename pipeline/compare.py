"""Two victims on the same images: `python -m pipeline.compare A B [--attack NAME]`.

Prints the paired difference with its bootstrap interval, McNemar's test, the images that flip, and
the difference by class. A and B are victims or rows of a table; `--table` names the table.
"""

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.errors import UserError, report
from pipeline.metrics import Verdicts
from pipeline.plan import Plan, Record, load_plan, schema
from pipeline.records import Arrays, read_arrays


@dataclass(frozen=True)
class Side:
    """One victim's verdicts, one vector a seed, on images named by their ids."""

    name: str
    verdicts: list[Verdicts]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value: the flips of an unbiased coin (McNemar 1947)."""
    flips, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(flips, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**flips) if flips else 1.0


def compare(a: Side, b: Side, classes: bool = True) -> dict[str, Any]:
    """Everything that is printed; accuracies as fractions. Flips are those of all seeds."""
    if not np.array_equal(a.ids, b.ids):
        raise UserError(f"{a.name} and {b.name} were evaluated on other images: nothing to compare")
    found: dict[str, Any] = {
        side.name: float(np.mean([v.mean() for v in side.verdicts])) for side in (a, b)
    }
    found["paired"] = metrics.paired(a.verdicts, b.verdicts)
    pairs = [(u >= 0.5, v >= 0.5) for u, v in zip(a.verdicts, b.verdicts, strict=False)]
    only_a = np.concatenate([a.ids[u & ~v] for u, v in pairs])
    only_b = np.concatenate([b.ids[v & ~u] for u, v in pairs])
    found["flips"] = {"only_a": sorted(only_a.tolist()), "only_b": sorted(only_b.tolist())}
    found["mcnemar"] = mcnemar(len(only_a), len(only_b))
    found["n"], found["seeds"] = len(a.ids), len(pairs)
    if classes:
        found["classes"] = {
            int(label): _of_class(a, b, a.labels == label) for label in np.unique(a.labels)
        }
    return found


def _of_class(a: Side, b: Side, mask: NDArray[np.bool_]) -> dict[str, float]:
    ours, theirs = ([v[mask] for v in side.verdicts] for side in (a, b))
    return {"n": int(mask.sum()), **metrics.paired(ours, theirs)}


def side(plan: Plan, table: str, name: str, column: str) -> Side:
    """A row of a table, or a victim, under one attack or the worst case of a suite."""
    groups = _groups(plan, table, name)
    verdicts, seen = [], None
    for records in groups:
        verdict, arrays = _verdict(records, column, name)
        verdicts.append(verdict)
        if seen is not None and not np.array_equal(seen["ids"], arrays["ids"]):
            raise UserError(f"{name}: its seeds were evaluated on other images")
        seen = arrays
    if seen is None:
        raise UserError(f"{name}: no records")
    return Side(name, verdicts, seen["ids"], seen["labels"])


def _groups(plan: Plan, table: str, name: str) -> list[list[Record]]:
    """Records of each seed of a row, or of the one victim of that id."""
    cells = [c for c in plan.table(table).cells if name in (c.row, c.victim and c.victim.id)]
    several = {(c.setting.dataset, c.setting.arch, c.members, c.setting.overrides) for c in cells}
    if len(several) > 1:
        ids = ", ".join(sorted(c.victim.id for c in cells if c.victim)[:3])
        raise UserError(f"{name}: stands for several victims of {table}; name one: {ids}, ...")
    if cells:
        return [list(c.records.values()) for c in cells]
    known = {r.victim.id for r in plan.graph.records.values()}
    if name not in known:
        rows = {c.row for c in plan.table(table).cells}
        raise UserError(f"{table} has no row {name!r}{schema.nearest(name, rows)}")
    return [[r for r in plan.graph.records.values() if r.victim.id == name]]


def _verdict(records: list[Record], column: str, name: str) -> tuple[Verdicts, Arrays]:
    for record in records:
        attacks = [attack for attack, _ in record.attacks]
        wanted = [column] if column in attacks and not record.leave else []
        wanted = attacks if column == f"{record.suite}_worst" else wanted
        if wanted or column == "clean":
            arrays = read_arrays(record.path)
            parts = [arrays[f"{part}/right"] for part in wanted or ["clean"]]
            return metrics.worst(parts), arrays
    raise UserError(f"{name}: no record has {column}: give an attack, clean, or SUITE_worst")


def text(found: dict[str, Any], a: str, b: str, column: str) -> str:
    """The comparison in percent, for people."""
    paired, flips = found["paired"], found["flips"]
    lines = [
        f"{column}: {a} {100 * found[a]:.1f}, {b} {100 * found[b]:.1f} "
        f"({found['n']} images, {found['seeds']} seeds)",
        f"difference {_points(paired)}; McNemar p = {found['mcnemar']:.3g}",
        f"right only with {a}: {len(flips['only_a'])} {_some(flips['only_a'])}",
        f"right only with {b}: {len(flips['only_b'])} {_some(flips['only_b'])}",
    ]
    for label, part in found.get("classes", {}).items():
        lines.append(f"class {label} (n {part['n']}): {_points(part)}")
    return "\n".join(lines) + "\n"


def _points(part: dict[str, float]) -> str:
    bounds = f"[{100 * part['low']:+.1f}, {100 * part['high']:+.1f}]"
    return f"{100 * part['difference']:+.1f} {bounds}"


def _some(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return f"({shown}{', ...' if len(ids) > 10 else ''})" if ids else ""


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument("a", help="row of the table, or id of a victim")
    parser.add_argument("b", help="the other one")
    parser.add_argument("--table", default="results/table1.csv")
    parser.add_argument("--attack", default="core_worst", help="attack, clean or SUITE_worst")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    args = parser.parse_args(argv)
    plan = load_plan()
    a, b = (side(plan, args.table, name, args.attack) for name in (args.a, args.b))
    found = compare(a, b)
    print(json.dumps(found, indent=1) if args.json else text(found, a.name, b.name, args.attack))


if __name__ == "__main__":
    report(main)
