"""Which jobs go first: those with the longest chain of work behind them.

A job's rank is its own estimate and that of the longest chain of jobs behind it, in seconds.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.plan import Artifact, Plan, Snapshots
from pipeline.plan.estimate import seconds
from pipeline.plan.workflow import FIND, one_line


class Order:
    """Ranks of a plan's jobs, found when the first is asked for."""

    def __init__(self, plan: Plan, *, is_main: bool = True) -> None:
        self.plan, self.is_main = plan, is_main
        self._ranks: dict[Path, float] = {}

    def of(self, stage: str) -> Callable[[Any], int] | int:
        """The `priority` of a rule, as a function of its wildcards; none in a job's own process."""
        if not self.is_main:
            return 0
        return one_line(lambda wildcards: round(self.rank(FIND[stage](self.plan, dict(wildcards)))))

    def rank(self, artifact: Artifact) -> float:
        """Seconds from the start of its job to the end of the last one that waits for it."""
        if artifact.path not in self._ranks:
            behind = max(map(self.rank, self._waiting[artifact.path]), default=0.0)
            self._ranks[artifact.path] = (seconds(self.plan, [artifact]) or 0.0) + behind
        return self._ranks[artifact.path]

    @cached_property
    def _waiting(self) -> dict[Path, list[Artifact]]:
        """What is made of an artifact, by its path."""
        graph = self.plan.graph
        waiting: defaultdict[Path, list[Artifact]] = defaultdict(list)
        pending: list[Artifact] = [
            *graph.runs.values(),
            *graph.sets.values(),
            *graph.records.values(),
        ]
        seen: set[Path] = set()
        while pending:
            artifact = pending.pop()
            for part in artifact.inputs(graph):
                waiting[part.path].append(artifact)
                if isinstance(part, Snapshots) and part.path not in seen:  # which no list has
                    seen.add(part.path)
                    pending.append(part)
        return waiting
