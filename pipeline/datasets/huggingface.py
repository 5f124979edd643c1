"""A Hugging Face data set of your own disk: its parquet files, or a folder of save_to_disk."""

import io
import json
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contracts.dataset import Arrays, Images, Labels
from pipeline.datasets._local import TEST, Pictures
from pipeline.errors import UserError
from pipeline.raw.receipt import walk_files

SUFFIXES = (".parquet", ".arrow")
INTEGER = re.compile("u?int[0-9]+")  # a type's name in Arrow


@dataclass(frozen=True, kw_only=True)
class Huggingface(Pictures):
    """Files `<split>.*`, `<split>-*` or `<split>/*`, .parquet or .arrow, images as encoded bytes.

    Those of a split lie in one folder at any depth: in two they are other configs or revisions.
    image, label: names of the two columns; names of classes are those of the files' own features.
    """

    image: str
    label: str

    def load(self, raw: Path) -> Arrays:
        """Arrays of the training and the test split, rows in the order of the files' names."""
        root = self.place(raw)
        train = self._table(root, ("train",))
        test = self._table(root, TEST)
        return Arrays(*self._columns(root, train), *self._columns(root, test), self._names(train))

    def _table(self, root: Path, splits: tuple[str, ...]) -> Any:
        """The rows of the first of these splits that has files."""
        arrow, parquet = _pyarrow(""), _pyarrow(".parquet")
        files = sorted(p for p in walk_files(root) if p.suffix in SUFFIXES)
        # beside the rows the library leaves results of its `map` and `filter`
        files = [p for p in files if not p.name.startswith("cache-")]
        for split in splits:
            begin = (f"{split}.", f"{split}-")  # test_small is another split than test
            own = [p for p in files if p.name.startswith(begin) or p.parent.name == split]
            if not own:
                continue
            places = sorted({f"{p.relative_to(root).parent}/*{p.suffix}" for p in own})
            if len(places) > 1:
                twice = f"has the split {split} more than once, in {places[0]} and in {places[1]}"
                raise self.refuse(root, f"{twice}; `files` must name a folder with one of them")
            try:
                parts = [
                    parquet.read_table(p) if p.suffix == ".parquet" else _read_stream(arrow, p)
                    for p in own
                ]
                return arrow.concat_tables(parts)
            except (OSError, arrow.ArrowException) as error:
                raise self.refuse(own[0], f"cannot be read ({error})") from error
        asked = " or ".join(f"{splits[0]}{end}" for end in (".*", "-*", "/*"))
        raise self.refuse(root, f"has no .parquet or .arrow files named {asked}")

    def _columns(self, root: Path, table: Any) -> tuple[Images, Labels]:
        lost = [name for name in (self.image, self.label) if name not in table.column_names]
        if lost:
            there = ", ".join(table.column_names)
            raise self.refuse(root, f"has no column {lost[0]}, but {there}")
        cells = table.column(self.image).to_pylist()
        if not all(isinstance(cell, dict) and cell.get("bytes") for cell in cells):
            raise self.refuse(root, f"column {self.image} holds no encoded images")
        images = self.decode((root, io.BytesIO(cell["bytes"])) for cell in cells)
        labels, lost = table.column(self.label), table.column(self.label).null_count
        if lost or not INTEGER.fullmatch(str(labels.type)):
            held = f"{lost} empty cells" if lost else str(labels.type)
            raise self.refuse(root, f"column {self.label} holds {held}, not class numbers")
        return images, labels.to_numpy().astype(np.int64)

    def _names(self, table: Any) -> list[str]:
        """Of the classes, from the features that the library writes into its files."""
        stated = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = stated.get("info", {}).get("features", {}).get(self.label, {})
        return [str(n) for n in feature.get("names", range(self.classes))]


def _pyarrow(part: str) -> Any:
    try:
        return import_module(f"pyarrow{part}")
    except ImportError as error:
        raise UserError(
            "pyarrow, which reads Hugging Face files, is not installed: "
            "python -m pip install -r envs/arrow.txt"
        ) from error


def _read_stream(arrow: Any, path: Path) -> Any:
    with arrow.ipc.open_stream(path) as stream:
        return stream.read_all()
