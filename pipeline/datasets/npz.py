"""Arrays of your own in one .npz file, named as MedMNIST or Keras name them."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contracts.dataset import Arrays, Images, Labels
from pipeline.datasets._local import LocalSet

NAMES = (
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
)
# a single array, which .npy files hold, is no context of a `with`: TypeError
DAMAGE = (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Npz(LocalSet):
    """Images uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]; labels [N] or [N, 1], 0 to classes - 1.

    An array `names` of the file names the classes.
    """

    def load(self, raw: Path) -> Arrays:
        """Arrays of the file's split."""
        path = self.place(raw)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name]) for name in file.files}
        except DAMAGE as error:
            raise self.refuse(path, f"is no .npz file of plain arrays ({error})") from error

        known = [group for group in NAMES if set(group) <= set(arrays)]
        if not known:
            groups = " or ".join(", ".join(group) for group in NAMES)
            raise self.refuse(path, f"holds {', '.join(arrays) or 'nothing'}; it needs {groups}")
        train, train_of, test, test_of = known[0]
        names = np.atleast_1d(arrays.get("names", np.arange(self.classes)))
        return Arrays(
            self._images(path, train, arrays[train]),
            self._labels(path, train_of, arrays[train_of]),
            self._images(path, test, arrays[test]),
            self._labels(path, test_of, arrays[test_of]),
            [str(name) for name in names.tolist()],
        )

    def _images(self, path: Path, name: str, found: Any) -> Images:
        """Pixels as [N, C, H, W]; of a shape that may be either, channels stand last."""
        if found.dtype != np.uint8:
            raise self.refuse(path, f"{name} is {found.dtype}; write pixels 0 to 255 as uint8")
        square = (self.size, self.size)
        if self.channels == 1 and found.shape[1:] == square:
            found = found[..., None]
        if found.shape[1:] == (*square, self.channels):
            found = found.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(found)

    def _labels(self, path: Path, name: str, found: Any) -> Labels:
        if not np.issubdtype(found.dtype, np.integer) or found.shape not in (
            found.shape[:1],
            (*found.shape[:1], 1),
        ):
            raise self.refuse(path, f"{name} is {found.dtype} {found.shape}; it needs integers [N]")
        labels: Labels = found.reshape(-1).astype(np.int64)
        return labels
