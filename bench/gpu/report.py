"""Lines of a bench as they come."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError


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

    def attempt(self, what: str, measure: Callable[[], dict[str, Any] | None]) -> None:
        """One line of what is measured, if it is not written yet, or of what went wrong: others are
        wanted all the same."""
        try:
            found = measure()
            if found is not None:
                self.add(what, **found)
        except (RuntimeError, AssertionError, UserError) as error:  # out of memory, too
            self.add(what, failed=str(error).splitlines()[0])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
