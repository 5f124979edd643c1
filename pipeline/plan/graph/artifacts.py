"""What the plan names: runs, victims, transfer sets, records; what each is made of."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

from pipeline.plan.artifact import Dataset, Files
from pipeline.plan.params.values import Entry

# the files of a run's folder, by what the rules call them; `run.json` describes it
RUN_FILES = {"weights": "weights.safetensors", "spec": "run.json"}
TRAINING_FILES = {**RUN_FILES, "best": "best.safetensors", "history": "history.csv"}


class Book(Protocol):
    """Where artifacts look up what they are made of, by name: the plan's graph."""

    runs: "dict[str, Run]"
    sets: "dict[str, TransferSet]"
    records: "dict[str, Record]"


def run_files(stage: str, run: str) -> dict[str, Path]:
    """The files of a run of a stage, by what the rules call them."""
    names = TRAINING_FILES if stage == "train" else RUN_FILES
    return {key: Path("results/runs") / run / name for key, name in names.items()}


@dataclass(frozen=True)
class Run(Files):
    """One training, or one average of a trajectory; `parents` are runs it needs."""

    id: str
    stage: str  # train, average or adopt
    entry: str
    dataset: Dataset
    arch: str  # the entry that stands for the table's
    spec: Entry
    members: int
    parents: tuple[str, ...] = ()
    edges: dict[str, "Victim"] = field(default_factory=dict)  # parents by method field
    files: tuple[str, ...] = ()  # where its weights, or those it starts from, come from

    @cached_property
    def folder(self) -> Path:
        """Where its weights and history lie."""
        return Path("results/runs") / self.id

    @cached_property
    def path(self) -> Path:
        """The folder, under which it is recorded."""
        return self.folder

    @cached_property
    def outputs(self) -> tuple[Path, ...]:
        """Its weights, their description, and of a training its best epoch and history."""
        return tuple(run_files(self.stage, self.id).values())

    @property
    def weights(self) -> Path:
        """The weights it ended with."""
        return self.folder / TRAINING_FILES["weights"]

    @property
    def sources(self) -> tuple[Path, ...]:
        """The user's files, of an adopted run."""
        return tuple(map(Path, self.files)) if self.stage == "adopt" else ()

    def checkpoint(self, which: str) -> Path:
        """The weights of its `last` or `best` epoch."""
        return self.folder / TRAINING_FILES["weights" if which == "last" else "best"]

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """Data, and the runs it starts from or averages, with the epochs it takes of them."""
        parents = tuple(book.runs[parent] for parent in self.parents)
        first = self.spec["average"]["fields"].get("start") if self.stage == "average" else None
        epochs = () if first is None else (Snapshots(parents[0], first),)
        return (self.dataset, *parents, *epochs)

    @property
    def snapshots(self) -> Path:
        """Where a trajectory's epochs lie."""
        return Path("results/snapshots") / self.id

    @property
    def work(self) -> Path:
        """Where its resume state lies, until it is finished."""
        return Path("work/runs") / self.id

    @property
    def state(self) -> Path:
        """What an interrupted training goes on from."""
        return self.work / "state.pt"


@dataclass(frozen=True)
class Snapshots(Files):
    """The epochs of a training from `first` on: never recorded, derived again when lost."""

    run: Run
    first: int
    stage: ClassVar[str] = "trajectory"

    @property
    def id(self) -> str:
        """The training's, and the first epoch."""
        return f"{self.run.id}-from{self.first}"

    @cached_property
    def path(self) -> Path:
        """The index of the epochs."""
        return self.run.snapshots / f"from{self.first}.json"

    @cached_property
    def outputs(self) -> tuple[Path, ...]:
        """The index."""
        return (self.path,)

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """The training, whose weights must come out again, and its data."""
        return (self.run.dataset, self.run)


@dataclass(frozen=True)
class Element:
    """A part of a victim: a run's weights at one checkpoint."""

    run: str
    checkpoint: str  # last or best


@dataclass(frozen=True)
class Victim:
    """What is attacked: elements and the rule that combines their members."""

    id: str
    entry: str
    dataset: Dataset
    elements: tuple[Element, ...]
    combine: str
    logit_scale: float
    members: int
    member: int | None = None  # the one that answers alone, of jointly trained members
    # (used, asked for) of every network behind it, teachers and parents included
    archs: tuple[tuple[str, str], ...] = ()

    @property
    def stood_in(self) -> tuple[tuple[str, str], ...]:
        """Of `archs`, those that another stands in for at this scale."""
        return tuple((used, asked) for used, asked in self.archs if used != asked)

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """What loading it on its images reads: data and runs."""
        return (self.dataset, *(book.runs[element.run] for element in self.elements))


@dataclass(frozen=True)
class Record(Files):
    """One suite of attacks on one victim: per-sample verdicts."""

    id: str
    victim: Victim
    suite: str
    attacks: tuple[tuple[str, Entry], ...]  # name, spec with surrogate
    images: int
    spec: Entry
    leave: bool = False  # whether fooled images leave before the next attack
    sets: tuple[str, ...] = ()  # transfer sets it judges
    before: str | None = None  # the record whose fooled images it does not ask about
    stage: ClassVar[str] = "evaluate"

    @property
    def split(self) -> str:
        """The images it judges: of the test or the validation split."""
        return str(self.spec.get("split", "test"))

    @cached_property
    def path(self) -> Path:
        """Where the verdicts lie."""
        return Path("results/records") / f"{self.id}.npz"

    @cached_property
    def outputs(self) -> tuple[Path, ...]:
        """The verdicts."""
        return (self.path,)

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """The victim, the transfer sets, and the record that it goes on from."""
        earlier = (book.records[self.before],) if self.before else ()
        return (*self.victim.inputs(book), *(book.sets[id] for id in self.sets), *earlier)


@dataclass(frozen=True)
class TransferSet(Files):
    """Adversarial images of one surrogate and one attack, for every victim."""

    id: str
    surrogate: Victim
    name: str  # of the attack's entry: the draws follow it
    attack: Entry
    images: int
    spec: Entry
    stage: ClassVar[str] = "transfer"

    @cached_property
    def path(self) -> Path:
        """Where the images lie."""
        return Path("results/transfer") / f"{self.id}.safetensors"

    @cached_property
    def outputs(self) -> tuple[Path, ...]:
        """The images."""
        return (self.path,)

    def inputs(self, book: Book) -> "tuple[Part, ...]":
        """The surrogate."""
        return self.surrogate.inputs(book)


Part = Dataset | Run | Snapshots | TransferSet | Record  # what others are made of


def tail(id: str) -> str:
    """The digest at the end of an artifact's id."""
    return id.rpartition("-")[2]
