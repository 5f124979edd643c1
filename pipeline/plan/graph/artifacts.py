"""What the plan names: runs, victims, records, and the tables and figures made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.plan.params.entries import Dataset, Setting
from pipeline.plan.params.values import Entry


@dataclass(frozen=True)
class Run:
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
    file: str | None = None  # where its weights, or those it starts from, come from

    @property
    def folder(self) -> Path:
        """Where its weights and history lie."""
        return Path("results/runs") / self.id

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


@dataclass(frozen=True)
class Record:
    """One suite of attacks on one victim: per-sample verdicts."""

    id: str
    victim: Victim
    suite: str
    attacks: tuple[tuple[str, Entry], ...]  # name, spec with surrogate
    images: int
    spec: Entry
    leave: bool = False  # whether fooled images leave before the next attack
    sets: tuple[str, ...] = ()  # transfer sets it judges

    @property
    def split(self) -> str:
        """The images it judges: of the test or the validation split."""
        return str(self.spec.get("split", "test"))

    @property
    def path(self) -> Path:
        """Where the verdicts lie."""
        return Path("results/records") / f"{self.id}.npz"


@dataclass(frozen=True)
class TransferSet:
    """Adversarial images of one surrogate and one attack, for every victim."""

    id: str
    surrogate: Victim
    name: str  # of the attack's entry: the draws follow it
    attack: Entry
    images: int
    spec: Entry

    @property
    def path(self) -> Path:
        """Where the images lie."""
        return Path("results/transfer") / f"{self.id}.safetensors"


@dataclass(frozen=True)
class Cell:
    """One row of a table at one seed; no victim and no records where it `lacks` something."""

    row: str
    setting: Setting
    members: int
    seed: int
    victim: Victim | None
    records: dict[str, Record]
    reference: str | None  # id of the victim to compare with
    lacks: str = ""  # planned: the method; needs weights: the user's own file


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is made of records and weights and has a human name; its receipt holds `digest`."""

    name: str
    path: Path
    cells: tuple[Cell, ...]
    spec: Entry
    digest: str

    @property
    def elsewhere(self) -> tuple[Path, ...]:
        """Its files beside those that share the path's stem."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Table(Target):
    """A table as this plan builds it."""

    columns: tuple[str, ...]
    suites: dict[str, dict[str, str]]  # entries of their attacks, by the name in columns

    @property
    def metrics(self) -> Path:
        """Its numbers alone, for DVC."""
        return self.path.parent / "metrics" / f"{self.path.stem}.json"

    @property
    def elsewhere(self) -> tuple[Path, ...]:
        """The metrics."""
        return (self.metrics,)


@dataclass(frozen=True, kw_only=True)
class Figure(Target):
    """A picture as this plan draws it; `attacks` are the specs of its own, for each cell."""

    kind: Entry  # component, fields, code
    attacks: tuple[Entry, ...]
    pool: int  # test images it may take, its table's
    reads_weights: bool

    @property
    def stem(self) -> str:
        """Its files without results/ and suffix, as the rules name it."""
        return self.path.with_suffix("").relative_to("results").as_posix()


def tail(id: str) -> str:
    """The digest at the end of an artifact's id."""
    return id.rpartition("-")[2]


def label(cell: Cell, cells: Sequence[Cell], without: str = "") -> str:
    """The row's name, and whatever else tells it from the others; `without` one axis."""
    setting = cell.setting
    parts = [cell.row]
    parts += [f"x{cell.members}"] if _varies(cells, "members") else []
    parts += [setting.dataset] if len({c.setting.dataset for c in cells}) > 1 else []
    parts += [setting.arch] if _varies(cells, "arch") else []
    parts += [f"{k}={v}" for k, v in setting.overrides if k != without]
    return " ".join(parts)


def _varies(cells: Sequence[Cell], key: str) -> bool:
    """Whether rows of one data set differ in this part of their settings."""
    pairs = {(c.setting.dataset, getattr(c.setting, key)) for c in cells}
    return len(pairs) > len({c.setting.dataset for c in cells})
