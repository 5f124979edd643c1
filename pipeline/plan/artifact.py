"""What every artifact knows of itself, and prepared data, which all others are made from.

An artifact has an `id`, the `stage` whose job makes it, the `path` it is recorded under, the
`outputs` of its job, and its `inputs`: the artifacts that the job reads.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

SPLITS = ("train", "validation", "test")


class Files:
    """The files of an artifact's job."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """What the job writes."""
        raise NotImplementedError

    @property
    def sources(self) -> tuple[Path, ...]:
        """What the job reads that no artifact is: fetched files, or a user's own."""
        return ()

    def is_here(self) -> bool:
        """Whether it is finished: every file of its job is there."""
        return all(path.exists() for path in self.outputs)


@dataclass(frozen=True)
class Dataset(Files):
    """A data set as this plan prepares it; `fields` are its class's arguments."""

    name: str
    component: str
    fields: dict[str, Any]
    digest: str
    place: str | None = None  # of the user's own files
    is_shared: bool = True  # its official files are those that its component's own entry names
    stage: ClassVar[str] = "prepare"

    @property
    def id(self) -> str:
        """Its entry's name."""
        return self.name

    @property
    def raw(self) -> Path:
        """Folder of the fetched files, or of the link to the user's own."""
        is_shared = self.is_shared and self.place is None
        return Path("data/raw") / (self.component if is_shared else self.name)

    @cached_property
    def folder(self) -> Path:
        """Folder of the prepared arrays."""
        return Path("data") / self.name / self.digest

    @cached_property
    def path(self) -> Path:
        """The folder, under which it is recorded."""
        return self.folder

    @cached_property
    def outputs(self) -> tuple[Path, ...]:
        """The arrays of each split."""
        return tuple(self.folder / f"{split}.safetensors" for split in SPLITS)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The receipt of the fetched files."""
        return (self.raw / "verified.json",)

    def inputs(self, book: object) -> tuple[()]:
        """No other artifact."""
        return ()
