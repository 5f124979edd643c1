"""CIFAR-10 (Krizhevsky 2009): 50,000 training, 10,000 test images of 32x32 pixels, 10 classes."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.contracts.dataset import Arrays, ImageSet
from pipeline.datasets._cifar import read_batches, read_names
from pipeline.datasets._torchvision import cifar_source
from pipeline.raw.fetch import Source

FOLDER = "cifar-10-batches-py"
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


@dataclass(frozen=True, kw_only=True)
class Cifar10(ImageSet):
    """The official python batches, in their order."""

    def load(self, raw: Path) -> Arrays:
        """Arrays of the official split."""
        folder, size = raw / FOLDER, (self.channels, self.size)
        train = read_batches([folder / name for name in TRAIN], "labels", *size)
        test = read_batches([folder / "test_batch"], "labels", *size)
        return Arrays(*train, *test, read_names(folder / "batches.meta", "label_names"))


def sources() -> tuple[Source, ...]:
    """The archive, by torchvision's address and md5."""
    return (cifar_source("CIFAR10"),)
