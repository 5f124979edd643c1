"""Lines of a bench as they come."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Report:
    """Lines so far, printed and written as they come."""

    path: Path
    head: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, **values: Any) -> None:
        """One line more."""
        self.lines.append({"what": what, **values})
        print(f"{what:34s} " + "  ".join(f"{k} {v}" for k, v in values.items()), flush=True)
        text = json.dumps({**self.head, "lines": self.lines}, indent=1)
        self.path.write_text(text + "\n")

    def attempt(self, what: str, measure: Callable[[], dict[str, Any]]) -> None:
        """One line, of what went wrong where something did: others are wanted all the same."""
        try:
            self.add(what, **measure())
        except (RuntimeError, AssertionError) as error:  # out of memory, too
            self.add(what, failed=str(error).splitlines()[0])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
