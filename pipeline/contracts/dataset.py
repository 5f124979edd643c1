"""What a data set is to the pipeline: its fields, the arrays it loads, and how they are split."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Arrays(NamedTuple):
    """Official training and test images uint8 [N, C, H, W], labels int64 [N], names of classes."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Fields every data set has; `sha256` names its files as fetched, in the order of `sources`."""

    classes: int
    channels: int
    size: int  # pixels of a side
    validation: int  # training images held out to select checkpoints
    split_seed: int
    augment: Literal["none", "crop_flip"]
    padding: int  # zero pixels added on each side before the crop
    sha256: list[str]

    remedy: ClassVar[str] = "delete it and run python -m pipeline.download again"

    def load(self, raw: Path) -> Arrays:
        """Read the official files below `raw`; raises UserError when one is missing or corrupt."""
        raise NotImplementedError

    def check(self, arrays: Arrays, raw: Path) -> None:
        """Raise UserError unless the arrays have the shapes and classes these fields promise."""
        train, test = arrays.train_labels, arrays.test_labels
        for part, images, labels in (
            ("training", arrays.train_images, train),
            ("test", arrays.test_images, test),
        ):
            shape = (len(labels), self.channels, self.size, self.size)
            if images.dtype != np.uint8 or images.shape != shape:
                raise corrupt(
                    raw,
                    f"{part} images are {images.dtype} {images.shape}, not {shape}",
                    self.remedy,
                )

        classes = set(np.unique(train).tolist())
        if classes != set(range(self.classes)) or not set(np.unique(test).tolist()) <= classes:
            raise corrupt(raw, f"labels are not 0 to {self.classes - 1}", self.remedy)
        if len(arrays.names) != self.classes:
            names = f"{len(arrays.names)} class names for {self.classes} classes"
            raise corrupt(raw, names, self.remedy)


def corrupt(path: Path, what: str, remedy: str = ImageSet.remedy) -> UserError:
    """The error for raw data that is not what it should be."""
    what = " ".join(what.split())  # a library's message may have lines
    return UserError(f"{path}: {what}: {remedy}")


def stratified(labels: Labels, count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices (kept, held out), both rising; `count` are held out, each class in its proportion.

    Raises UserError when `count` is negative or leaves nothing.
    """
    if not 0 <= count < len(labels):
        raise UserError(
            f"cannot hold out {count} of {len(labels)} images: correct `validation` (and `test`) "
            "of the data set in params.yaml"
        )
    # numpy froze this generator's stream (NEP 19); the newer ones' may change with a version
    order = np.random.RandomState(seed).permutation(len(labels))
    held = [
        order[labels[order] == label][:share]
        for label, share in enumerate(_shares(np.bincount(labels), count))
    ]
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out, assume_unique=True), out


def _shares(sizes: NDArray[np.intp], count: int) -> list[int]:
    """`count` divided in proportion to `sizes` by largest remainder, the first class at a tie."""
    exact = [count * int(size) for size in sizes]
    total = int(sizes.sum())
    shares = [product // total for product in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(exact[i] % total), i))
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    return shares
