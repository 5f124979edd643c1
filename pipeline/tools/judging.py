"""A plan of one row: a user's checkpoint as a victim of the project's own suites."""

import argparse
import copy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.errors import UserError
from pipeline.loading import fitting, foreign, modules
from pipeline.loading.images import Split
from pipeline.loading.layouts import OWN
from pipeline.plan.graph.outside import describe_module
from pipeline.plan.params import values
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest
from pipeline.share import writer
from pipeline.tools import names

ROOM = Path("work/judge")
ROW = TABLE = SCALE = "judged"
SUITES = ("unified", "core", "adaptive")  # none that needs a network trained elsewhere
COLUMNS = ("clean", "core_worst", "adaptive_worst", "members", "parameters", "inference_macs")
MOST = 10000  # test images, where nobody says how many
STATED = Fraction(8, 255)  # the radius at which params.yaml states its attacks


@dataclass(frozen=True)
class Task:
    """What a checkpoint is judged on: the scale's attacks, a data set, a radius, images."""

    scale: str
    dataset: str
    factor: Fraction  # of every radius in params.yaml
    images: int | None  # of the test split; None is as many as the scale takes


def find_task(
    params: Entry, dataset: str, scale: str | None, eps: str | None, images: int | None
) -> Task:
    """The task that words ask for; a data set has the radius at which the scale uses it."""
    chosen = values.find(values.section(params, "scales"), "scales", scale or params.get("scale"))
    entries = Entries({**params, "scale": chosen})
    values.find(entries.section("datasets"), "datasets", dataset)
    factors = [
        entries.stand_in(name)[1]
        for name, stand_in in entries.part("stand_ins").items()
        if stand_in.get("dataset") == dataset
    ]
    factor = factors[0] if factors else Fraction(1)
    if eps is not None:
        factor = values.fraction(eps, "--eps") / STATED
        if not 0 < factor * STATED <= 1:
            raise UserError(f"--eps: {eps} is no radius of pixels in [0, 1]; did you mean 8/255?")
    return Task(chosen, dataset, factor, images)


def build_params(params: Entry, task: Task, entry: Entry, available: int) -> Entry:
    """params.yaml with one table of one row, at a scale where nothing stands in.

    Raises UserError where more test images are asked for than there are.
    """
    images = task.images or min(MOST, available)
    if images > available:
        raise UserError(f"--images: {images} asked for, {task.dataset} has {available} to test")
    changed = copy.deepcopy(params)
    own = {"dataset": task.dataset, "eps_factor": str(task.factor)}
    cut: Entry = {"base": task.scale, "stand_ins": {task.dataset: own}, "archs": {}}
    cut |= {"recipe": {}, "recipes": {}, "tables": {}, "figures": {}, "seeds": [0]}
    if task.images is not None:
        cut["images"] = task.images
    changed["scales"][SCALE] = cut
    changed |= {"scale": SCALE, "figures": {}, "planned": []}
    changed["victims"] = {**changed.get("victims", {}), ROW: entry}

    suites = [suite for suite in SUITES if suite in changed.get("suites", {})]
    columns = [c for c in COLUMNS if not c.endswith("_worst") or c[: -len("_worst")] in suites]
    changed["tables"] = {
        TABLE: {
            "title": "A checkpoint from elsewhere",
            "recipe": next(iter(changed["recipes"])),
            "datasets": [task.dataset],
            "archs": [entry.get("arch", next(iter(changed["archs"])))],
            "members": [entry["members"]],
            "seeds": [0],
            "rows": [ROW],
            "columns": columns,
            "suites": suites,
            "means": {},
            "images": images,
            "checkpoint": "last",
            "reference": "none",
            "reported": "none",
            "printed": "any",
        }
    }
    return changed


def lay_out(params: Entry, entry: Entry, task: Task) -> Path:
    """The folder of a judgement, named by what is judged on what, with its params.yaml and data."""
    asked = {**entry, "file": "", "task": [task.scale, str(task.factor), task.images]}
    folder = ROOM / digest(asked, 12)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for shared in ("data", "results/manifest.jsonl"):  # as recorded in the project itself
        # The whole path: a relative one fails where `work` is a link to scratch.
        link, target = folder / shared, Path(shared).resolve()
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    writer.write(folder, params)
    return folder


def show_entry(entry: Entry, files: list[str], model: str | None) -> str:
    """The entry of `victims:`, its files as the user named them, on one line."""
    named = {**entry, "file": files if isinstance(entry["file"], list) else files[0]}
    return names.spell_entry(ROW, {**named, "model": model} if model else named)


# ---- what is judged


def find_entry(args: argparse.Namespace, entries: Entries, split: Split) -> Entry:
    """The entry of `victims:` that reads the files, its map proposed and shown."""
    spec = names.describe_files(args.file, args.part, args.drop) | {"names": args.names}
    said = fitting.name_files(args.file)
    if args.model:
        found, network = find_own(args, spec, split), {"model": locate_module(args.model)}
    else:
        found = names.pair(entries, spec, args.file, args.arch, args.dataset)
        network = {"arch": args.arch}
        if not found.fits:
            advice = names.advise(entries, found, spec, args.file, args.dataset)
            raise UserError(f"{said}: {advice}")
    print(f"{said}: {len(found.networks)} network(s); names: {found.layout}; {names.sample(found)}")

    files = [str(Path(file).resolve()) for file in args.file]
    statistics = {key: find_statistics(key, args, found, split) for key in ("mean", "std")}
    about = {"combine": args.combine, "dataset": args.dataset, **network, **statistics}
    return names.build_entry(found, spec, files, about)


def locate_module(given: str) -> str:
    """file.py:function with the file's whole path, since a judgement has a folder of its own."""
    path, _, function = given.rpartition(":")
    return f"{Path(path).resolve()}:{function}"


def find_own(args: argparse.Namespace, spec: Entry, split: Split) -> names.Pairing:
    """The networks of files beside a user's own module, whose names they must have."""
    channels = split.images.shape[1]
    spec |= {"names": OWN, "arch": describe_module(locate_module(args.model), "--model")}
    network = modules.build(spec["arch"], channels, [0.0] * channels, [1.0] * channels).network
    networks = fitting.prepare_networks(spec, args.file, len(args.file))
    found = names.compare(networks, foreign.unwrap(network.state_dict()), spec)
    if not found.fits:
        raise UserError(
            f"{fitting.name_files(args.file)}: {fitting.explain(found.wrong)} ({args.model})"
        )
    return found


def read_numbers(key: str, args: argparse.Namespace) -> list[float]:
    """The numbers of --mean or --std; none where it is not given."""
    return [float(values.fraction(value, f"--{key}")) for value in getattr(args, key) or ()]


def find_statistics(
    key: str, args: argparse.Namespace, found: names.Pairing, split: Split
) -> list[float]:
    """What the networks subtract or divide by: as asked, the file's own, or the training set's."""
    asked, stated = read_numbers(key, args), found.networks[0].statistics.get(key)
    if asked:
        numbers, whose = asked, "as asked"
    elif stated:
        numbers, whose = stated[1], f"{stated[0]} in the file"
    elif args.model:
        numbers, whose = [float(key == "std")], "the module normalises by itself"
    else:
        numbers, whose = getattr(split, key), f"of {args.dataset}'s training images"
    if len(numbers) == 1:
        numbers = numbers * split.images.shape[1]
    print(f"{key}: {[round(number, 4) for number in numbers]} ({whose})")
    return list(numbers)
