"""Image folders of your own: `train/<class>/*.png` and `test/<class>/*.png`, as for torchvision."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.contracts.dataset import Arrays, Images, Labels
from pipeline.datasets._local import TEST, Pictures
from pipeline.raw.receipt import walk_files


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Pictures):
    """Classes are the folders' names, sorted; `val` serves where there is no `test`.

    A class has all pictures at any depth, in the order of their paths; other files are no pictures.
    """

    def load(self, raw: Path) -> Arrays:
        """Arrays of the two folders, images in the order of classes and of sorted paths."""
        root = self.place(raw)
        train = root / "train"
        test = next((root / n for n in TEST if (root / n).is_dir()), root / "test")
        names = self._classes(train)
        if self._classes(test) != names:
            odd = sorted(set(names) ^ set(self._classes(test)))[0]
            raise self.refuse(test, f"has other classes than train (such as {odd})")
        return Arrays(*self._read(train, names), *self._read(test, names), names)

    def _classes(self, folder: Path) -> list[str]:
        try:
            return sorted(path.name for path in folder.iterdir() if path.is_dir())
        except OSError as error:
            raise self.refuse(folder, f"is no folder of classes with images ({error})") from error

    def _read(self, folder: Path, names: list[str]) -> tuple[Images, Labels]:
        known = Image.registered_extensions()
        above = (folder.parent.resolve(), folder.resolve())  # where no link of a class leads back
        found = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted(walk_files(folder / name, above))
            if path.suffix.lower() in known
        ]
        images = self.decode((path, path) for path, _ in found)
        return images, np.array([label for _, label in found], np.int64)
