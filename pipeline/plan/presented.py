"""results/report.html: what it shows today, and what that rests on."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.plan import Figure, Plan, Table, Target
from pipeline.plan.params.words import digest
from pipeline.store.sums import sum_of

PAGE = Path("results/report.html")
TEXTS = (Path("results/claims.md"), Path("results/audit.md"))


@dataclass(frozen=True, kw_only=True)
class Page(Target):
    """results/report.html as today's tables, figures and texts make it."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The page, and what it rests on."""
        return self.path, self.path.with_suffix(".json")


def page(plan: Plan) -> Page:
    """The page of today."""
    shown = {target.name: target.digest for target in find_shown(plan)}
    texts = {path.as_posix(): sum_of(path) for path in written()}
    name = PAGE.stem
    return Page(name=name, path=PAGE, cells=(), spec={}, digest=digest({**shown, **texts}))


def find_shown(plan: Plan) -> list[Table | Figure]:
    """What results/report.html shows: the unified table, whole where it is finished, then whatever
    other table or figure is finished.

    No network is trained for a page: an unfinished unified table is shown, once it is made, where
    its records are here, or where no table is finished.
    """
    unified = [plan.tables[name] for name in ("table1_all", "table1") if name in plan.tables]
    first = (
        [table for table in unified if table.is_here()]
        or [table for table in unified[-1:] if all(r.is_here() for r in table.records)]
        or [table for table in plan.tables.values() if table.is_here()]
        or unified[-1:]
    )[:1]
    others = [t for t in plan.targets.values() if not t.name.startswith("table1") and t.is_here()]
    return [*first, *(target for target in others if target not in first)]


def written() -> list[Path]:
    """The texts about several tables that are there: claims, and what gains are made of."""
    return [path for path in TEXTS if path.exists()]


def list_inputs(plan: Plan) -> list[str]:
    """The files that the page is made of."""
    suffixes = {target.path: target.path.with_suffix(".json") for target in find_shown(plan)}
    return [*(str(path) for pair in suffixes.items() for path in pair), *map(str, written())]
