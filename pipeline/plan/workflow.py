"""What the Snakemake rules ask: inputs by wildcard, the stale mark, the line before a run."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pipeline.errors import UserError
from pipeline.plan import Figure, Plan, Record, Run, Target, TransferSet, Victim
from pipeline.plan.graph import tables
from pipeline.plan.inputs import outputs, paths_of, wanted
from pipeline.plan.state import NEED, headline, is_current, states

P = ParamSpec("P")
T = TypeVar("T")


def check_config(plan: Plan, config: Mapping[str, Any]) -> None:
    """Refuse values given by --config: DVC and the names of artifacts see only the file."""
    params = plan.entries.params
    changed = [k for k in config if config[k] != params.get(k)]
    if changed:
        raise UserError(f"--config {changed[0]}: change it in params.yaml instead")


def _one_line(question: Callable[P, T]) -> Callable[P, T]:
    """End in one line on a user's error: Snakemake prints a trace of any other exception."""

    @wraps(question)
    def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return question(*args, **kwargs)
        except UserError as error:
            raise SystemExit(f"error: {error}") from None

    return answer


def raw(plan: Plan, dataset: str) -> list[str]:
    """The receipt of a data set's raw files."""
    found = plan.dataset(dataset)
    return wanted(found, [found.raw / "verified.json"])


def data(artifact: Run | Record | TransferSet) -> list[str]:
    """The prepared arrays that an artifact is made from."""
    if isinstance(artifact, Run):
        dataset = artifact.dataset
    else:
        victim = artifact.victim if isinstance(artifact, Record) else artifact.surrogate
        dataset = victim.dataset
    return wanted(artifact, outputs(dataset))


def files(plan: Plan, victim: Victim) -> list[str]:
    """Weights and descriptions of the runs behind a victim."""
    found = []
    for element in victim.elements:
        folder = plan.run(element.run).folder
        name = "weights" if element.checkpoint == "last" else "best"
        found += [str(folder / f"{name}.safetensors"), str(folder / "run.json")]
    return found


@_one_line
def parents(plan: Plan, run: str) -> list[str]:
    """What a training needs of other runs."""
    child = plan.run(run)
    return wanted(child, [f for victim in child.edges.values() for f in files(plan, victim)])


@_one_line
def trajectory(plan: Plan, run: str) -> list[str]:
    """What an average needs of its training: snapshots, or the last weights."""
    average = plan.run(run)
    source = plan.run(average.parents[0])
    found = [str(source.folder / "weights.safetensors"), str(source.folder / "run.json")]
    first = average.spec["average"]["fields"].get("start")
    if first is not None:
        found.append(str(source.snapshots / f"from{first}.json"))
    return wanted(average, found)


@_one_line
def weights(plan: Plan, record: str) -> list[str]:
    """What an evaluation needs: its victim, and the transfer sets it judges."""
    found = plan.record(record)
    sets = [str(plan.set(id).path) for id in found.sets]
    return wanted(found, files(plan, found.victim) + sets)


@_one_line
def surrogate(plan: Plan, set: str) -> list[str]:
    """What crafting a transfer set needs."""
    found = plan.set(set)
    return wanted(found, files(plan, found.surrogate))


@_one_line
def adopted(plan: Plan, run: str) -> list[str]:
    """The file whose weights a run takes in."""
    found = plan.run(run)
    return wanted(found, [found.file or ""])


@_one_line
def records(plan: Plan, target: str) -> list[str]:
    """The records of a table or figure; of one that is today's, those that are here."""
    found = plan.target(target)
    paths = [r.path for r in plan.needs(found)[0]]
    return paths_of(found, paths)


@_one_line
def shown(plan: Plan, figure: str) -> list[str]:
    """Data and weights that drawing a figure reads, beside its records."""
    found = plan.figure(figure)
    victims = plan.shown(found)
    read = [f for v in victims for f in [*map(str, outputs(v.dataset)), *files(plan, v)]]
    return paths_of(found, read)


def average_pattern(plan: Plan) -> str:
    """Regular expression of the ids of averages."""
    names = "|".join(plan.entries.section("averages")) or "(?!)"
    return rf"[a-z0-9_]+-[a-z0-9_]+-(?:{names})-s[a-z0-9_-]+"


def adopt_pattern(plan: Plan) -> str:
    """Regular expression of the ids of runs whose weights come from a file."""
    found = [run.id for run in plan.graph.runs.values() if run.stage == "adopt"]
    return "|".join(found) or "(?!)"


def train_pattern(plan: Plan) -> str:
    """Regular expression of the ids of trainings: all that are no averages and not adopted."""
    return rf"(?!{average_pattern(plan)}|{adopt_pattern(plan)})[a-z0-9_-]+"


def uncut_tables(plan: Plan) -> list[str]:
    """Every table with every row, whatever the scale shows; but those that are made `apart`."""
    names = [n for n in plan.entries.section("tables") if not tables.is_apart(plan.entries, n)]
    return [str(plan.tables.get(f"{n}_all", plan.tables[n]).path) for n in names]


def figures(plan: Plan) -> list[str]:
    """Every figure."""
    return [str(figure.path) for figure in plan.figures.values()]


def figure_pattern(plan: Plan, reads_weights: bool | None = None) -> str:
    """Regular expression of figures' stems: those that read weights, those that do not, or all."""
    found = [
        figure.stem
        for figure in plan.figures.values()
        if reads_weights in (None, figure.reads_weights)
    ]
    return "|".join(found) or "(?!)"


def table_folder(plan: Plan) -> str:
    """Regular expression of the folder in a table's path; the paths of figures have none."""
    return rf"(?!(?:{figure_pattern(plan)})\.)([a-z0-9_]+/)?"


@_one_line
def target_input(plan: Plan, name: str, ancient: Callable[[str], Any]) -> Any:
    """params.yaml as an old input while the receipt is today's; else the table is marked stale.

    The mark is a time of 1 s: Snakemake reads 0 as unknown. It sees the mark without metadata.
    The input is then a file named by today's digest: params.yaml itself, when only code or a
    reported number changed, still has the checksum Snakemake remembers, and would be no reason.
    """
    target = plan.target(name)
    if is_current(target):
        return ancient("params.yaml")
    if target.path.exists():
        os.utime(target.path, (1, 1))
    return str(_mark(target))


def mark_targets(plan: Plan) -> None:
    """Make the inputs of all targets that are not today's, before Snakemake lists their folder.

    A mark made later is missing to it: it lists a folder once.
    """
    for target in plan.targets.values():
        if not is_current(target):
            _mark(target).parent.mkdir(parents=True, exist_ok=True)
            _mark(target).touch()


def _mark(target: Target) -> Path:
    return Path("work/plans") / f"{target.name}-{target.digest}"


def stages(plan: Plan) -> dict[str, list[Target]]:
    """Targets by DVC's stage, its @ as _: unified, paper_aute, beyond_sweep, picture_radii.

    Uncut tables belong to no stage.
    """
    found: dict[str, list[Target]] = {}
    for target in plan.targets.values():
        folder, name = target.path.parent.name, target.path.stem
        if name.endswith("_all"):
            continue
        if folder != "results":
            found.setdefault(f"paper_{folder}", []).append(target)
        elif name == "table1":
            found["unified"] = [target]
        else:
            found[f"{'picture' if isinstance(target, Figure) else 'beyond'}_{name}"] = [target]
    return found


def summary(plan: Plan, made: Iterable[str] | None = None) -> str:
    """One line before a run: scale, data sets, what is to make at what estimated cost.

    `made` are the files of the jobs to run; without them it is what the tables still need.
    """
    names = plan.entries.section("tables")
    targets: list[Target] = [plan.tables[n] for n in names]
    if made is not None:
        targets = list(plan.targets.values())
    files = None if made is None else set(made)
    needed = [s for s in states(plan, targets) if s.status == NEED]
    if files is not None:
        folders = {str(Path(f).parent) for f in files}  # a trajectory's file names its first epoch
        needed = [
            s for s in needed if str(s.path) in (folders if s.stage == "trajectory" else files)
        ]
    return headline(plan, targets, needed)


def sweep(plan: Plan) -> None:
    """Remove resume states of what is finished: see `frozen.discard`."""
    for run in plan.graph.runs.values():
        if (run.folder / "weights.safetensors").exists():
            shutil.rmtree(run.work, ignore_errors=True)
    for record in plan.graph.records.values():
        if record.path.exists():
            shutil.rmtree(Path("work/records") / record.id, ignore_errors=True)
