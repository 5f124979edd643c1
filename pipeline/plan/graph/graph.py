"""The plan's book: what a row's name means, and every artifact that was named so far.

Runs, victims and records are entered by `runs.py`, `victims.py` and `suites.py`, each once.
"""

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Record, Run, TransferSet, Victim
from pipeline.plan.params.entries import ROWS, Entries, Setting
from pipeline.plan.params.words import nearest


class Graph:
    """Runs, victims, transfer sets and records by their names, and the entries they are of."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.kinds = _kinds(entries)  # the section that each row's name stands in
        self.runs: dict[str, Run] = {}
        self.victims: dict[tuple[str, Setting], Victim] = {}
        self.sets: dict[str, TransferSet] = {}
        self.records: dict[str, Record] = {}

    def kind(self, name: str, where: str = "tables") -> str:
        """The section a row's name stands in."""
        if not isinstance(name, str) or name not in self.kinds:
            hint = nearest(name, self.kinds)
            raise UserError(f"params.yaml: {where}: {name!r} is no victim, average or method{hint}")
        return self.kinds[name]


def _kinds(entries: Entries) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for kind in ROWS:
        for name in entries.section(kind):
            if name in kinds:
                raise UserError(f"params.yaml: {kind}.{name}: is in {kinds[name]} too; rename one")
            kinds[name] = kind
    return kinds
