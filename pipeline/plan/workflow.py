"""What the Snakemake rules ask: inputs by wildcard, the stale mark, the line before a run."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pipeline.errors import UserError
from pipeline.plan import (
    Artifact,
    Figure,
    Plan,
    Snapshots,
    Table,
    Target,
    load_part,
    load_plan,
    marks,
    presented,
)
from pipeline.plan.graph import table_entries, tables
from pipeline.plan.graph.artifacts import run_files
from pipeline.plan.speeds import measure
from pipeline.plan.state import NEED, headline, states
from pipeline.store.lease import list_held

P = ParamSpec("P")
T = TypeVar("T")


TARGET_JOB = re.compile(r"(?P<rule>\w+):(?P<wildcards>(\w+=[\w/-]+)(,\w+=[\w/-]+)*)")
CLUSTER = ("train", "trajectory", "average", "adopt", "transfer", "evaluate", "figure")


def load(arguments: Iterable[str], is_main: bool) -> Plan:
    """The plan of a workflow; of the Snakemake that a job of it is, what the job needs.

    That one is called with `--target-jobs train:run=A train:run=B`.
    """
    jobs = [match for match in map(TARGET_JOB.fullmatch, arguments) if match]
    if is_main or not jobs or any(match["rule"] not in CLUSTER for match in jobs):
        return load_plan()
    pairs = [dict(p.split("=", 1) for p in match["wildcards"].split(",")) for match in jobs]
    return load_part(*map(_id, pairs))


def _id(wildcards: Mapping[str, str]) -> str:
    """The id of what a job makes, of its rule's wildcards."""
    if "suite" in wildcards:
        return f"{wildcards['victim']}/{wildcards['suite']}"
    return next(wildcards[key] for key in ("run", "set", "figure") if key in wildcards)


def check_config(plan: Plan, config: Mapping[str, Any]) -> None:
    """Refuse values given by --config: DVC and the names of artifacts see only the file."""
    params = plan.entries.params
    changed = [k for k in config if config[k] != params.get(k)]
    if changed:
        raise UserError(f"--config {changed[0]}: change it in params.yaml instead")


def one_line(question: Callable[P, T]) -> Callable[P, T]:
    """End in one line on a user's error: Snakemake prints a trace of any other exception."""

    @wraps(question)
    def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return question(*args, **kwargs)
        except UserError as error:
            raise SystemExit(f"error: {error}") from None

    return answer


def _find_table(plan: Plan, wildcards: Mapping[str, str]) -> Table:
    """A table asked for by its path; its name is no path where it has a folder."""
    stem = wildcards["folder"] + wildcards["table"]
    table, asked = plan.table(stem), Path("results") / f"{stem}.csv"
    if table.path != asked:
        raise UserError(f"{asked}: table {table.name} is made as {table.path}")
    return table


# the artifact that a job of a rule makes
FIND: dict[str, Callable[[Plan, Mapping[str, str]], Artifact]] = {
    "prepare": lambda plan, wildcards: plan.dataset(wildcards["dataset"]),
    "train": lambda plan, wildcards: plan.run(wildcards["run"]),
    "average": lambda plan, wildcards: plan.run(wildcards["run"]),
    "adopt": lambda plan, wildcards: plan.run(wildcards["run"]),
    "trajectory": lambda plan, wildcards: Snapshots(
        plan.run(wildcards["run"]), int(wildcards["epoch"])
    ),
    "transfer": lambda plan, wildcards: plan.set(wildcards["set"]),
    "evaluate": lambda plan, wildcards: plan.record(f"{wildcards['victim']}/{wildcards['suite']}"),
    "tabulate": _find_table,
    "plot": lambda plan, wildcards: plan.figure(wildcards["figure"]),
    "figure": lambda plan, wildcards: plan.figure(wildcards["figure"]),
}


def artifact_of(plan: Plan, rule: str, wildcards: Mapping[str, str]) -> Artifact | None:
    """The artifact that a job of a rule makes; None for rules that make none."""
    return FIND[rule](plan, wildcards) if rule in FIND else None


def name_inputs(plan: Plan, rule: str, *, whole: bool) -> Callable[[Any], list[str]]:
    """The input function of a rule: see `inputs`."""
    return lambda wildcards: inputs(plan, rule, wildcards, whole=whole)


@one_line
def inputs(plan: Plan, rule: str, wildcards: Any, *, whole: bool = True) -> list[str]:
    """What a rule's job reads; once its artifact is there, what of it happens to be.

    An input that must be made first makes Snakemake run the job again, `ancient` or not. Unless the
    `whole` is asked for, one file stands for all of a job, the first that is missing if any: the
    graph of a plan has a third of the files then.
    """
    artifact = FIND[rule](plan, dict(wildcards.items()))
    parts, is_here = artifact.inputs(plan.graph), artifact.is_here()
    made = [part.outputs if whole else (_standing_for(part.outputs),) for part in parts]
    files = dict.fromkeys((*artifact.sources, *chain.from_iterable(made)))
    return [str(path) for path in files if not is_here or path.exists()]


def _standing_for(outputs: Sequence[Path]) -> Path:
    """The file whose absence or presence is that of all."""
    return next((path for path in outputs if not path.exists()), outputs[0])


def run_outputs(stage: str) -> dict[str, str]:
    """The outputs of a rule that makes runs, by name."""
    return {key: str(path) for key, path in run_files(stage, "{run}").items()}


def average_pattern(plan: Plan) -> str:
    """Regular expression of the ids of averages."""
    names = "|".join(plan.entries.section("averages")) or "(?!)"
    return rf"[a-z0-9_]+-[a-z0-9_]+-(?:{names})-s[a-z0-9_-]+"


def adopt_pattern(plan: Plan) -> str:
    """Regular expression of the ids of runs whose weights come from a file."""
    ids = [run.id for run in plan.graph.runs.values() if run.stage == "adopt"]
    return "|".join(ids) or "(?!)"


def train_pattern(plan: Plan) -> str:
    """Regular expression of the ids of trainings: all that are no averages and not adopted."""
    return rf"(?!{average_pattern(plan)}|{adopt_pattern(plan)})[a-z0-9_-]+"


def uncut_tables(plan: Plan) -> list[str]:
    """Every table with every row, whatever the scale shows; but those made `on_request`."""
    every = plan.entries.section("tables")
    names = [n for n in every if not table_entries.is_on_request(plan.entries, n)]
    made = [plan.tables.get(f"{n}_all", plan.tables.get(n)) for n in names]  # a part has not all
    return [str(table.path) for table in made if table]


def claimed_tables(plan: Plan, file: str) -> list[str]:
    """The tables of a plan that a file of data/claims/ names; none where there is no file."""
    names = tables.claimed(Path(file)) if Path(file).is_file() else []
    return [str(plan.tables[name].path) for name in names if name in plan.tables]


def figures(plan: Plan) -> list[str]:
    """Every figure."""
    return [str(figure.path) for figure in plan.figures.values()]


@one_line
def page_inputs(plan: Plan) -> list[str]:
    """The files that the page is made of."""
    return presented.list_inputs(plan)


def figure_pattern(plan: Plan, reads_weights: bool | None = None) -> str:
    """Regular expression of figures' stems: those that read weights, those that do not, or all."""
    stems = [
        figure.stem
        for figure in plan.figures.values()
        if reads_weights in (None, figure.reads_weights)
    ]
    return "|".join(stems) or "(?!)"


def table_folder(plan: Plan) -> str:
    """Regular expression of the folder in a table's path; the paths of figures have none."""
    return rf"(?!(?:{figure_pattern(plan)})\.)([a-z0-9_]+/)?"


@one_line
def target_input(plan: Plan, name: str, ancient: Callable[[str], Any], is_main: bool = True) -> Any:
    """params.yaml as an old input while the receipt is today's; else a mark that is newer.

    The mark's name says today's digest and what is there instead: params.yaml itself, when only
    code or a reported number changed, still has the checksum Snakemake remembers, as would a mark
    that it saw before, and neither would be a reason. The Snakemake that a job is needs no reason,
    and the mark of files that a first attempt removed would have another name.
    """
    return _mark_stale(plan.target(name), ancient) if is_main else ancient("params.yaml")


@one_line
def page_input(plan: Plan, ancient: Callable[[str], Any]) -> Any:
    """The same of the page: a table that it shows no more would be no reason to make it again."""
    return _mark_stale(presented.page(plan), ancient)


def _mark_stale(target: Target, ancient: Callable[[str], Any]) -> Any:
    return ancient("params.yaml") if target.is_here() else str(marks.name_mark(target))


def mark_targets(plan: Plan) -> None:
    """Make the inputs of all targets that are not today's, before Snakemake lists their folder.

    A mark made later is missing to it: it lists a folder once.
    """
    for target in (*plan.targets.values(), presented.page(plan)):
        if not target.is_here():
            marks.renew(target)


def stages(plan: Plan) -> dict[str, list[Target]]:
    """Targets by DVC's stage, its @ as _: unified, paper_aute, beyond_sweep, picture_radii.

    Uncut tables belong to no stage.
    """
    by_stage: dict[str, list[Target]] = {}
    for target in plan.targets.values():
        folder, name = target.path.parent.name, target.path.stem
        if name.endswith("_all"):
            continue
        if folder != "results":
            by_stage.setdefault(f"paper_{folder}", []).append(target)
        elif name == "table1":
            by_stage["unified"] = [target]
        else:
            by_stage[f"{'picture' if isinstance(target, Figure) else 'beyond'}_{name}"] = [target]
    return by_stage


def summary(plan: Plan, made: Iterable[str] | None = None) -> str:
    """One line before a run: scale, data sets, what is to make at what estimated cost.

    `made` are the files of the jobs to run; without them it is what the tables still need.
    """
    names = plan.entries.section("tables")
    targets: list[Table | Figure] = [plan.tables[n] for n in names]
    if made is not None:
        targets = list(plan.targets.values())
    speeds = measure(plan, targets)
    needed = [s for s in states(plan, targets, speeds) if s.status == NEED]
    if made is not None:
        files = set(made)
        needed = [s for s in needed if not files.isdisjoint(map(str, s.artifact.outputs))]
    return headline(plan, targets, needed, speeds)


def sweep(plan: Plan) -> None:
    """Remove resume states of what is finished: see `frozen.discard`.

    A finished training whose epochs an average still waits for keeps its state, as does what a job
    by hand works at: that is of training once more.
    """
    awaited = _list_trained_again(plan)
    for run in plan.graph.runs.values():
        if run.is_here() and run.id not in awaited:
            shutil.rmtree(run.work, ignore_errors=True)
    for record in plan.graph.records.values():
        if record.is_here():
            shutil.rmtree(Path("work/records") / record.id, ignore_errors=True)


def _list_trained_again(plan: Plan) -> set[str]:
    """Ids of runs whose epochs are, or have to be, derived once more."""
    runs = plan.graph.runs.values()
    averages = [run for run in runs if run.stage == "average" and not run.is_here()]
    parts = [part for average in averages for part in average.inputs(plan.graph)]
    missing = {p.run.id for p in parts if isinstance(p, Snapshots) and not p.is_here()}
    return missing | {name.removeprefix("runs/") for name in list_held()}
