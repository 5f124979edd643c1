"""The shared code that a result was made with, which is in no name, and whether it is today's.

The code of components is part of the names of their results; what all share is versioned by hand,
by the numbers `core:` of params.yaml. So a job writes beside its run, set or record a hash of every
shared definition that it rests on, from the syntax tree: comments, docstrings and what it does not
use do not count. Where they differ from today's, the plan and Snakemake say so before any job.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import Artifact, Plan, Record, Run, TransferSet, Victim
from pipeline.plan.params import references
from pipeline.plan.params.schema import KINDS, ROOT
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest
from pipeline.store.files import write_atomic
from pipeline.store.scratch import read_memo, write_scratch
from pipeline.store.sums import read_mapping

EQUAL = "pipeline/share/shared.json"  # what the golden run has proven equal
SEEN = Path("work/shared.seen")  # what lies beside artifacts that is today's, by size and time
STARTS = {  # what makes an artifact of a stage
    "train": ("train.py:train", "train.py:write"),
    "average": ("average.py:make_average",),
    "adopt": ("adopt.py:adopt",),
    "transfer": ("transfer.py:craft",),
    "evaluate": ("evaluate.py:evaluate",),
}
NUMBER = {"adopt": "train"}  # the stage whose number versions it, where that is another
ROOMS = {"arch": "archs", "method": "methods", "average": "averages"}  # by key of a run's spec
ROOMS |= {"attack": "attacks", "validation_attack": "attacks"}
ORIGIN = "origin.json"  # beside an unfinished training's state: what it was made of
GOLDEN = "python tests/whole/golden/run.py"
Made = Run | TransferSet | Record  # what such hashes lie beside


# ---- what an artifact rests on today


def code_of(plan: Plan, artifact: Made) -> dict[str, str]:
    """Hash of each shared definition that making it uses: `core/losses.py:kl` and so on."""
    return _summed(plan, artifact)[0]


def _summed(plan: Plan, artifact: Made) -> tuple[dict[str, str], str]:
    if isinstance(artifact, Run):
        files = _files_of_run(plan, artifact)
    elif isinstance(artifact, TransferSet):
        files = _files_of_attacked(plan, artifact.surrogate, [artifact.attack])
    else:
        files = _files_of_attacked(plan, artifact.victim, [spec for _, spec in artifact.attacks])
    return _reach(artifact.stage, frozenset(files))


def _files_of_run(plan: Plan, run: Run) -> set[str]:
    """Files of the components of a run, of an average's training, of parents' archs."""
    spec = run.spec
    made = [(room, spec[key]) for key, room in ROOMS.items() if spec.get(key)]
    made += [("archs", arch) for arch in spec.get("archs", {}).values()]
    made += [("attacks", attack) for attack in spec.get("attacks", {}).values()]
    # a user's own module, in the place of an arch, is no component and known by its file's sum
    files = {f"{room}/{part['component']}.py" for room, part in made if "component" in part}
    for parent in map(plan.run, run.parents):
        whole = _files_of_run(plan, parent)
        files |= whole if run.stage == "average" else {f for f in whole if f.startswith("archs/")}
    return files | {f"datasets/{run.dataset.component}.py"}


def _files_of_attacked(plan: Plan, victim: Victim, attacks: Iterable[Entry]) -> set[str]:
    """Files of attacks, and of their victim's archs and data."""
    crafted = {spec["component"] for spec in attacks if "set" not in spec}
    runs = [_files_of_run(plan, plan.run(e.run)) for e in victim.elements]
    kept = {f for files in runs for f in files if f.startswith(("archs/", "datasets/"))}
    return kept | {f"attacks/{component}.py" for component in crafted}


@cache
def _reach(stage: str, components: frozenset[str]) -> tuple[dict[str, str], str]:
    """The hashes, and their digest."""
    known = references.files()
    names = [f"{file}:{name}" for file in sorted(components) for name in known.get(file, ())]
    found = references.reach([references.DEVICE, *STARTS[stage], *names])
    return found, digest(found)


# ---- what it was made with


def _beside(artifact: Made) -> str:
    """Where times and code of an artifact lie, as `sums.beside` has it; a text, for there are
    thousands to look at."""
    if isinstance(artifact, Run):
        return f"results/runs/{artifact.id}/run.time.json"
    if isinstance(artifact, TransferSet):
        return f"results/transfer/{artifact.id}.time.json"
    return f"results/records/{artifact.id}.time.json"


class Stale:
    """Artifacts that were made with other shared code than today's, and what changed since."""

    def __init__(self, plan: Plan, artifacts: Iterable[Artifact]) -> None:
        self.plan, self.whole, self.seen = plan, 0, read_memo(SEEN)
        self.found: list[Made] = []
        self.files = Counter[str]()
        remembered = dict(self.seen)
        for artifact in artifacts:
            if isinstance(artifact, Made):
                self._look(artifact)
        if self.seen != remembered:
            with suppress(UserError):  # it only spares reading
                write_scratch(SEEN, json.dumps(self.seen).encode())

    def _look(self, artifact: Made) -> None:
        path = _beside(artifact)
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            return
        self.whole += 1
        number = NUMBER.get(artifact.stage, artifact.stage)
        today, summed = _summed(self.plan, artifact)
        equal, proven = _read_equal(number, self.plan.entries.core[number])
        now = [stat.st_size, stat.st_mtime_ns, summed, proven]
        if self.seen.get(path) == now:
            return

        before = read_mapping(Path(path)).get("shared")
        changed = find_changed(before, today, equal) if isinstance(before, dict) else []
        if not changed:
            self.seen[path] = now
        elif artifact.is_here():
            self.found.append(artifact)
            self.files.update({name.partition(":")[0] for name in changed})

    def line(self) -> str:
        """What changed since, and the two ways out; empty where nothing did."""
        if not self.found:
            return ""
        stages = {NUMBER.get(artifact.stage, artifact.stage) for artifact in self.found}
        bump = " and ".join(f"core.{stage}" for stage in sorted(stages))
        return (
            f"shared code changed since {len(self.found)} of {self.whole} results were made, "
            f"which keep their names: {_name_files(self.files)}. If numbers may move, add one to "
            f"{bump} in params.yaml; if not, let `{GOLDEN}` prove it"
        )


def _name_files(files: Counter[str]) -> str:
    """The three that most definitions changed in, and how many more."""
    more = f" and {len(files) - 3} more files" if len(files) > 3 else ""
    return ", ".join(f"pipeline/{file}" for file, _ in files.most_common(3)) + more


def warn(plan: Plan) -> None:
    """Say on stderr what of this plan was made with other shared code than today's."""
    graph = plan.graph
    made: list[Artifact] = [*graph.runs.values(), *graph.sets.values(), *graph.records.values()]
    if line := Stale(plan, made).line():
        print(f"warning: {line}", file=sys.stderr)

    if line := _describe_unfinished(plan):
        print(f"warning: {line}", file=sys.stderr)


def _describe_unfinished(plan: Plan) -> str:
    """Which interrupted trainings begin anew, for their states are of other shared code; empty
    where none does."""
    folder, runs = Path("work/runs"), plan.graph.runs
    begun = [runs[name] for name in os.listdir(folder) if name in runs] if folder.is_dir() else []
    files, other = Counter[str](), []
    for run in sorted(begun, key=lambda run: run.id):
        before = None
        with suppress(OSError):  # no folder, or somebody else's: its job says what is wrong with it
            before = read_memo(run.work / ORIGIN).get("shared")
        if run.is_here() or not isinstance(before, dict):
            continue
        if changed := list_changed(plan, "train", before):
            other.append(run.id)
            files.update({name.partition(":")[0] for name in changed})
    if not other:
        return ""
    return (
        f"shared code changed since {len(other)} interrupted trainings were saved "
        f"({_name_files(files)}), "
        f"such as {other[0]}: they begin anew; undo the change and they go on"
    )


def find_changed(
    before: Mapping[str, Any], today: Mapping[str, str], equal: Mapping[str, list[str]]
) -> list[str]:
    """Definitions that are other ones than before, and not proven equal to those.

    What is used no more has changed its users; so has what is new, unless it was moved.
    """

    def is_same(name: str) -> bool:
        proven = equal.get(name, ())
        known = name not in before or before[name] in proven
        return before.get(name) == today[name] or (today[name] in proven and known)

    return [name for name in today if not is_same(name)]


def is_current(plan: Plan, stage: str, before: object) -> bool:
    """Whether what lies beside an artifact of a stage names today's code alone, or its equal."""
    return isinstance(before, dict) and not list_changed(plan, stage, before)


def list_changed(plan: Plan, stage: str, before: Mapping[str, Any]) -> list[str]:
    """Definitions of those that an artifact of a stage was made with that are not today's."""
    today, number = references.shared(), NUMBER.get(stage, stage)
    equal, _ = _read_equal(number, plan.entries.core[number])
    return find_changed(before, {name: today.get(name, "") for name in before}, equal)


@cache
def _read_equal(stage: str, number: int) -> tuple[dict[str, list[str]], str]:
    """Hashes proven equal for a stage, by definition, of its number in params.yaml alone; their
    digest."""
    path = ROOT / EQUAL
    if not path.exists():
        return {}, ""
    try:
        entry = json.loads(path.read_text())["stages"].get(stage, {"core": 0})
        equal = dict(entry["equal"]) if entry["core"] == number else {}
        return equal, digest(equal)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: cannot be read; git checkout it") from None


# ---- what is proven equal


def prove(stages: Mapping[str, int], ran: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Remember today's shared code; what `ran` of it for a stage whose bytes are those of the last
    golden run counts as equal to what ran then. Returns, by stage, what moved and is not proven,
    which it stays until it is what it was, or the stage has another number.

    `stages` are all with their numbers; of another number, what was proven before is forgotten.
    """
    path, today = ROOT / EQUAL, references.shared()
    known: dict[str, Any] = {"code": today, "stages": {}}
    known |= json.loads(path.read_text()) if path.exists() else {}
    entries, unproven = {}, dict[str, list[str]]()
    for stage, number in stages.items():
        entry = known["stages"].get(stage, {})
        is_same = entry.get("core") == number
        equal = dict(entry["equal"]) if is_same else {}
        # what was not proven then is compared with the code that was
        before = {**known["code"], **entry.get("unproven", {})} if is_same else today
        moved = {name for name, own in today.items() if before.get(name) != own}
        # The bytes that lie there are of the last run's code: of older one nothing shows any more.
        shown = moved.intersection(ran.get(stage, ())).difference(entry.get("unproven", {}))
        for name in shown:
            hashes = [*equal.get(name, []), before.get(name), today[name]]
            equal[name] = list(dict.fromkeys(filter(None, hashes)))
        left = moved.intersection(_reach_of(stage)).difference(shown)
        unproven |= {stage: sorted(left)} if left else {}
        entries[stage] = {"core": number, "equal": equal}
        entries[stage] |= {"unproven": {name: before.get(name) for name in left}} if left else {}
    text = json.dumps({"code": today, "stages": entries}, indent=1, sort_keys=True)
    write_atomic(path, (text + "\n").encode())
    return unproven


def _reach_of(stage: str) -> set[str]:
    """The shared definitions that results of a number may rest on, whatever their components."""
    components = frozenset(f for f in references.files() if f.partition("/")[0] in KINDS)
    starts = [s for s in STARTS if NUMBER.get(s, s) == stage]
    return {name for start in starts for name in _reach(start, components)[0]}
