"""Tiny-ImageNet (Stanford CS231n 2015): 100,000 training images of 64x64 pixels, 200 classes.

The labels of its test images were never published: its 10,000 validation images are the test
set here, as in the papers. JPEGs are decoded by Pillow, whose version envs/ pins.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.contracts.dataset import Arrays, Images, ImageSet, Labels, corrupt
from pipeline.raw.fetch import Files, Source

FOLDER = "tiny-imagenet-200"


@dataclass(frozen=True, kw_only=True)
class TinyImagenet(ImageSet):
    """The official folders; classes are numbered in the order of their sorted WordNet ids."""

    def load(self, raw: Path) -> Arrays:
        """Arrays of the official training and validation images; grey ones become RGB."""
        folder = raw / FOLDER
        names = _names(folder, self.classes)
        train = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((folder / "train" / name / "images").glob("*.JPEG"))
        ]
        test = _annotated(folder / "val", names)
        return Arrays(*_decode(train, self.size), *_decode(test, self.size), names)


def _names(folder: Path, classes: int) -> list[str]:
    """Sorted WordNet ids of wnids.txt, checked against the training folders."""
    path = folder / "wnids.txt"
    try:
        names = sorted(path.read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        raise corrupt(path, f"cannot be read ({error})") from error

    if len(set(names)) != classes:
        raise corrupt(path, f"names {len(set(names))} classes, not {classes}")

    found = sorted(entry.name for entry in (folder / "train").glob("*") if entry.is_dir())
    if found != names:
        raise corrupt(folder / "train", "has other classes than wnids.txt")
    return names


def _annotated(folder: Path, names: list[str]) -> list[tuple[Path, int]]:
    """Validation images with their class number, in the order of the annotations."""
    path = folder / "val_annotations.txt"
    number = {name: label for label, name in enumerate(names)}
    try:
        rows = [line.split("\t")[:2] for line in path.read_text().splitlines()]
        return [(folder / "images" / Path(image).name, number[name]) for image, name in rows]
    except (OSError, ValueError, KeyError) as error:
        raise corrupt(path, f"cannot be read ({error})") from error


def _decode(items: list[tuple[Path, int]], size: int) -> tuple[Images, Labels]:
    """Images uint8 [N, 3, size, size] and labels int64 [N]."""
    images = np.empty((len(items), 3, size, size), np.uint8)
    for i, (path, _) in enumerate(items):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise corrupt(path, f"cannot be read ({error})") from error

        if pixels.shape != (size, size, 3):
            raise corrupt(path, f"is {pixels.shape[1]}x{pixels.shape[0]}, not {size}x{size}")
        images[i] = pixels.transpose(2, 0, 1)
    return images, np.array([label for _, label in items], np.int64)


def sources() -> tuple[Source, ...]:
    """The official zip. Nobody publishes sums of its files: an unpacked folder is only counted."""
    return (
        Source(
            name="tiny-imagenet-200.zip",
            urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
            md5="90528d7ca1a48142e341f4ef8d21d0de",
            size=248_100_043,
            folder=FOLDER,
            instead=(
                (
                    Files(path=f"{FOLDER}/wnids.txt"),
                    Files(path=f"{FOLDER}/train/*/images/*.JPEG", count=100_000),
                    Files(path=f"{FOLDER}/val/images/*.JPEG", count=10_000),
                    Files(path=f"{FOLDER}/val/val_annotations.txt"),
                ),
            ),
        ),
    )
