"""What the Snakemake rules ask: inputs by wildcard, the stale mark, the line before a run."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import Plan, Run, Table, Victim, values

SPLITS = ("train", "validation", "test")


def check_config(plan: Plan, config: Mapping[str, Any]) -> None:
    """Refuse values given by --config: DVC and the names of artifacts see only the file."""
    params = plan.entries.params
    changed = [k for k in config if config[k] != params.get(k)]
    if changed:
        raise UserError(f"--config {changed[0]}: change it in params.yaml instead")


def data(artifact: Run | Victim) -> list[str]:
    """The prepared arrays of a run's or victim's data set."""
    return [str(artifact.dataset.folder / f"{s}.safetensors") for s in SPLITS]


def files(plan: Plan, victim: Victim) -> list[str]:
    """Weights and descriptions of the runs behind a victim."""
    found = []
    for element in victim.elements:
        folder = plan.run(element.run).folder
        name = "weights" if element.checkpoint == "last" else "best"
        found += [str(folder / f"{name}.safetensors"), str(folder / "run.json")]
    return found


def parents(plan: Plan, run: str) -> list[str]:
    """What a training needs of other runs."""
    return [f for victim in plan.run(run).edges.values() for f in files(plan, victim)]


def trajectory(plan: Plan, run: str) -> list[str]:
    """What an average needs of its training: snapshots, or the last weights."""
    average = plan.run(run)
    source = plan.run(average.parents[0])
    found = [str(source.folder / "weights.safetensors"), str(source.folder / "run.json")]
    first = average.spec["average"]["fields"].get("start")
    if first is not None:
        found.append(str(source.snapshots / f"from{first}.json"))
    return found


def weights(plan: Plan, record: str) -> list[str]:
    """What an evaluation needs: its victim, and the transfer sets it judges."""
    wanted = plan.record(record)
    return files(plan, wanted.victim) + [str(plan.set(id).path) for id in wanted.sets]


def adopted(plan: Plan, run: str) -> str:
    """The file whose weights a run takes in."""
    return str(plan.run(run).file)


def records(plan: Plan, table: str) -> list[str]:
    """The records of a table."""
    return [str(r.path) for r in plan.needs(plan.table(table))[0]]


def average_pattern(plan: Plan) -> str:
    """Regular expression of the ids of averages."""
    names = "|".join(values.section(plan.entries.params, "averages")) or "(?!)"
    return rf"[a-z0-9_]+-[a-z0-9_]+-(?:{names})-s[a-z0-9_-]+"


def adopt_pattern(plan: Plan) -> str:
    """Regular expression of the ids of runs whose weights come from a file."""
    found = [run.id for run in plan.graph.runs.values() if run.stage == "adopt"]
    return "|".join(found) or "(?!)"


def train_pattern(plan: Plan) -> str:
    """Regular expression of the ids of trainings: all that are no averages and not adopted."""
    return rf"(?!{average_pattern(plan)}|(?:{adopt_pattern(plan)})$)[a-z0-9_-]+"


def uncut_tables(plan: Plan) -> list[str]:
    """Every table with every row, whatever the scale shows by default."""
    names = values.section(plan.entries.params, "tables")
    return [str(plan.tables.get(f"{n}_all", plan.tables[n]).path) for n in names]


def is_current(table: Table) -> bool:
    """Whether the table on disk was made from exactly this plan."""
    try:
        receipt = json.loads(table.path.with_suffix(".json").read_text())["receipt"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return table.path.exists() and bool(receipt["plan"] == table.digest)


def table_input(plan: Plan, name: str, ancient: Callable[[str], Any]) -> Any:
    """params.yaml, as an old input while the receipt is today's; else the table is marked stale.

    The mark is a time of 1 s: Snakemake reads 0 as unknown. It sees the mark without metadata.
    """
    table = plan.table(name)
    if is_current(table):
        return ancient("params.yaml")
    if table.path.exists():
        os.utime(table.path, (1, 1))
    return "params.yaml"


def missing(plan: Plan, table: Table) -> dict[str, list[str]]:
    """Ids of what a table needs and has not: by stage train, average, evaluate."""
    needed, runs = plan.needs(table)
    stages = ("adopt", "train", "average", "transfer", "evaluate")
    absent: dict[str, list[str]] = {stage: [] for stage in stages}
    judged = [r for r in needed if not r.path.exists()]
    absent["evaluate"] = [r.id for r in judged]
    sets = {id: plan.set(id) for r in judged for id in r.sets}
    absent["transfer"] = [s.id for s in sets.values() if not s.path.exists()]
    sources = [plan.set(id).surrogate for id in absent["transfer"]]
    wanted = {e.run for v in (*(r.victim for r in judged), *sources) for e in v.elements}
    for run in reversed(runs):  # parents come before what needs them
        if run.id in wanted and not (run.folder / "weights.safetensors").exists():
            absent[run.stage].append(run.id)
            wanted |= set(run.parents)
    return absent


def summary(plan: Plan) -> str:
    """One line before a run: scale, data sets, artifacts."""
    sets = Counter(r.dataset.name for r in plan.graph.runs.values())
    return (
        f"scale {plan.scale}; data sets {', '.join(sorted(sets))}; "
        f"{len(plan.tables)} tables, {len(plan.graph.runs)} runs, "
        f"{len(plan.graph.records)} records planned; change it in params.yaml"
    )


def exists(path: Path) -> str:
    """A mark for lists."""
    return "have" if path.exists() else "need"
