"""The index of a trajectory's snapshots: their sums, and the final weights that they led to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.files import sha256_of, write_atomic
from pipeline.store.names import is_sha256
from pipeline.store.sums import sum_of

KEYS = {"weights", "snapshots"}


@dataclass(frozen=True)
class Trajectory:
    """Snapshots of the epochs `first` to `last` in a folder, and the weights they ended in."""

    folder: Path
    first: int
    last: int
    weights: Path

    @property
    def index(self) -> Path:
        """The file that says which snapshots there are."""
        return self.folder / f"from{self.first}.json"

    @property
    def paths(self) -> list[Path]:
        """Their files, by epoch."""
        epochs = range(self.first, self.last + 1)
        return [self.folder / f"{epoch:04d}.safetensors" for epoch in epochs]

    def write_index(self) -> None:
        """Say which snapshots there are, as the workflow's one output."""
        # Written when all of them are there: it stands for the trajectory.
        sums = {path.name: sha256_of(path) for path in self.paths}
        content = {"weights": sha256_of(self.weights), "snapshots": sums}
        write_atomic(self.index, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def check(self) -> None:
        """Raise UserError unless every epoch is there as it was, and led to the weights here."""
        run = self.folder.name
        again = f"python -m pipeline.train {run} --snapshots-from {self.first}"
        if not self.index.exists():
            raise UserError(f"{self.index}: is missing; run {again}")

        index = self._read()
        if index is None:
            raise UserError(f"{self.index}: is damaged; delete it and run {again}")

        # An average must be of the very trajectory that ended in the weights that are here.
        if index["weights"] != sum_of(self.weights):
            raise UserError(
                f"{self.index}: its snapshots led to other weights than {self.weights} holds now; "
                f"delete {self.folder} and run {again}"
            )

        for path in self.paths:
            if not path.exists() or sha256_of(path) != index["snapshots"][path.name]:
                raise UserError(
                    f"{path}: missing or altered; delete it and {self.index}, run {again}"
                )

    def _read(self) -> dict[str, Any] | None:
        """The index when it names exactly these epochs, each with a sum."""
        try:
            index = json.loads(self.index.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if (
            not isinstance(index, dict)
            or set(index) != KEYS
            or not isinstance(index["snapshots"], dict)
        ):
            return None

        sums = [index["weights"], *index["snapshots"].values()]
        is_whole = set(index["snapshots"]) == {path.name for path in self.paths}
        is_whole = is_whole and all(isinstance(s, str) and is_sha256(s) for s in sums)
        return index if is_whole else None
