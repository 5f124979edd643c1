"""Progress of long work: one bar on a terminal, one line per epoch or attack elsewhere."""

import sys
import time
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """Counts `total` epochs or attacks of the artifact `name`."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self._since, self._lines = time.monotonic(), 0
        self.bar = tqdm(total=total, desc=name, disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.bar.close()

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended."""
        scores = {k: row[k] for k in ("val_clean", "val_robust") if row[k] != ""}
        text = " ".join(f"{k.removeprefix('val_')} {100 * v:.1f} %" for k, v in scores.items())
        self.line(row["epoch"], f"loss {row['loss']:.4f} {text}")

    def line(self, done: int, text: str) -> None:
        """Step `done` of the total has ended."""
        self.bar.update(done - self.bar.n)
        self.bar.set_postfix_str(text)
        if self.bar.disable:
            self._lines += 1
            each = (time.monotonic() - self._since) / self._lines  # of this process's own steps
            took = f"({each:.3g} s each, {each * (self.total - done):.0f} s left)"
            print(f"{self.name}: {done}/{self.total} {text} {took}", flush=True)
