"""The digits that scikit-learn carries (Alpaydin & Kaynak 1998): 1,797 scans of 8x8 grey pixels."""

import gzip
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts.dataset import Arrays, ImageSet, corrupt, stratified
from pipeline.errors import UserError
from pipeline.raw.fetch import Source

NAME = "digits.csv.gz"
SIZE = 57_523  # bytes of the file whose sha256 params.yaml states
LEVELS = 16  # pixels are counts of 0 to 16


@dataclass(frozen=True, kw_only=True)
class Digits(ImageSet):
    """There is no official split: `test` images are held out first, by `split_seed`."""

    test: int

    def load(self, raw: Path) -> Arrays:
        """Arrays of the split; the scans' 17 grey levels are spread over 0 to 255."""
        rows = _read(raw / NAME, self.channels * self.size**2)
        images = np.rint(rows[:, :-1] * 255 / LEVELS).astype(np.uint8)
        images = images.reshape(-1, self.channels, self.size, self.size)

        labels = rows[:, -1].astype(np.int64)
        train, test = stratified(labels, self.test, self.split_seed)
        names = [str(digit) for digit in range(self.classes)]
        return Arrays(images[train], labels[train], images[test], labels[test], names)


def _read(path: Path, pixels: int) -> NDArray[np.float64]:
    """Rows of `pixels` counts and a label."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        rows = np.array([line.split(",") for line in lines], np.float64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise corrupt(path, f"cannot be read ({error})") from error

    if rows.ndim != 2 or rows.shape[1] != pixels + 1:
        raise corrupt(path, f"has the shape {rows.shape}, not {pixels} pixels and a label")
    if rows[:, :-1].min() < 0 or rows[:, :-1].max() > LEVELS or rows[:, -1].min() < 0:
        raise corrupt(path, f"has pixels outside 0 to {LEVELS}")
    return rows


def sources() -> tuple[Source, ...]:
    """The file inside the installed scikit-learn, which is not imported for it."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError(
            "scikit-learn is not installed: it carries the digits; install envs/'s pins"
        )
    path = Path(package.origin).parent / "datasets" / "data" / NAME
    return (Source(name=NAME, urls=(path.as_uri(),), md5=None, size=SIZE),)
