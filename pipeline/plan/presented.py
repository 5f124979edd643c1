"""results/report.html: what it shows today, and what that rests on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.plan import Figure, Plan, Record, Table, Target
from pipeline.plan.graph import tables
from pipeline.plan.params.words import digest
from pipeline.store.receipts import write_target
from pipeline.store.sums import sum_of

PAGE = Path("results/report.html")
CLAIMS, AUDIT = Path("results/claims.md"), Path("results/audit.md")
OURS, PRINTED = Path("data/claims/ours.csv"), Path("data/claims/printed.csv")
GAINS = Path("data/claims/gains.csv")
UNIFIED = ("table1_all", "table1")


@dataclass(frozen=True, kw_only=True)
class Page(Target):
    """results/report.html as today's tables, figures and texts make it."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The page, and what it rests on."""
        return self.path, self.path.with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Text(Target):
    """A text about several tables, with what it rests on in the .json beside it."""

    suffixes: tuple[str, ...]
    read: tuple[Record, ...]  # of its tables, those that are there

    @property
    def records(self) -> tuple[Record, ...]:
        """What it rests on."""
        return self.read

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All its files."""
        return tuple(self.path.with_suffix(suffix) for suffix in self.suffixes)


def claims(plan: Plan) -> Text:
    """results/claims.md of today: the papers' sentences against our tables and their own."""
    return _name_text(plan, CLAIMS, (OURS, PRINTED), (".md", ".json"))


def audit(plan: Plan) -> Text:
    """results/audit.md of today: what the published gains are made of."""
    suffixes = (".md", ".csv", ".json", ".png", ".pdf")
    return _name_text(plan, AUDIT, (GAINS,), suffixes)


def _name_text(plan: Plan, path: Path, files: tuple[Path, ...], suffixes: tuple[str, ...]) -> Text:
    """The text that the tables named in the first of some files make, as far as these are there."""
    files = tuple(file for file in files if file.is_file())
    said = tables.claimed(files[0]) if files else []
    asked = [side for cell in said for side in cell.split(" | ")]
    named = [plan.tables[name] for name in dict.fromkeys(asked) if name in plan.tables]
    records = {r.id: r for table in named for r in table.records if r.path.exists()}

    made_of = {
        "tables": {table.name: table.digest for table in named},
        "records": sorted(records),
        "files": {file.as_posix(): sum_of(file) for file in files},
    }
    return Text(
        name=path.stem,
        path=path,
        cells=(),
        spec={},
        digest=digest(made_of),
        suffixes=suffixes,
        read=tuple(records.values()),
    )


def save_text(plan: Plan, text: Text, files: Mapping[Path, bytes]) -> None:
    """Write a text's files, then its receipt."""
    rests_on = {record.path.as_posix(): sum_of(record.path) for record in text.records}
    receipt = {"plan": text.digest, "scale": plan.scale, "rests_on": rests_on}
    write_target(text.path.with_suffix(".json"), {"receipt": receipt}, files)


def page(plan: Plan) -> Page:
    """The page of today."""
    shown = {target.name: target.digest for target in find_shown(plan)}
    texts = {path.as_posix(): sum_of(path) for path in written(plan)}
    name = PAGE.stem
    return Page(name=name, path=PAGE, cells=(), spec={}, digest=digest({**shown, **texts}))


def find_shown(plan: Plan) -> list[Table | Figure]:
    """What results/report.html shows: the unified table, whole where it is finished, then whatever
    other table or figure is finished.

    No network is trained for a page: an unfinished unified table is shown, once it is made, where
    its records are here, or where no table is finished.
    """
    unified = [plan.tables[name] for name in UNIFIED if name in plan.tables]
    first = (
        [table for table in unified if table.is_here()]
        or [table for table in unified[-1:] if all(r.is_here() for r in table.records)]
        or [table for table in plan.tables.values() if table.is_here()]
        or unified[-1:]
    )[:1]
    others = [t for t in plan.targets.values() if t.name not in UNIFIED and t.is_here()]
    return [*first, *(target for target in others if target not in first)]


def written(plan: Plan) -> list[Path]:
    """The texts about several tables that are here and today's: claims, what gains are made of."""
    found = []
    for path, name in ((CLAIMS, claims), (AUDIT, audit)):
        if path.exists() and name(plan).is_here():
            found.append(path)
    return found


def list_inputs(plan: Plan) -> list[str]:
    """The files that the page is made of."""
    suffixes = {target.path: target.path.with_suffix(".json") for target in find_shown(plan)}
    texts = map(str, written(plan))
    return [*(str(path) for pair in suffixes.items() for path in pair), *texts]
