"""MNIST (LeCun et al. 1998): 60,000 training and 10,000 test images of 28x28 grey pixels."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts.dataset import Arrays, ImageSet, corrupt
from pipeline.datasets._torchvision import torchvision_datasets
from pipeline.raw.fetch import Files, Source

# torchvision's folder and the unpacked files serve as well; the first that is there is read
PLACES = ("{}.gz", "MNIST/raw/{}.gz", "{}", "MNIST/raw/{}")
MAGIC = 0x0800  # unsigned bytes; the lowest byte is the number of dimensions
UNPACKED_MD5 = {  # of the official files after gunzip; torchvision has those of the .gz only
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

SIZES = {  # bytes of the official files
    "train-images-idx3-ubyte.gz": 9_912_422,
    "train-labels-idx1-ubyte.gz": 28_881,
    "t10k-images-idx3-ubyte.gz": 1_648_877,
    "t10k-labels-idx1-ubyte.gz": 4_542,
}


@dataclass(frozen=True, kw_only=True)
class Mnist(ImageSet):
    """The four official IDX files, compressed or not."""

    def load(self, raw: Path) -> Arrays:
        """Arrays of the official split."""
        train, test = (
            (
                _read_idx(raw, f"{part}-images-idx3-ubyte", 3)[:, None],
                _read_idx(raw, f"{part}-labels-idx1-ubyte", 1).astype(np.int64),
            )
            for part in ("train", "t10k")
        )
        return Arrays(*train, *test, [str(digit) for digit in range(self.classes)])


def _read_idx(raw: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """The array of one IDX file: magic number, sizes (big-endian 32 bits), bytes."""
    places = [raw / place.format(name) for place in PLACES]
    path = next((place for place in places if place.exists()), places[0])
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise corrupt(path, f"cannot be read ({error})") from error

    start = 4 * (1 + dimensions)
    magic, *shape = np.frombuffer(content[:start].ljust(start, b"\0"), ">u4").tolist()
    # dtype=object: Python's numbers, for a damaged header may claim sizes that overflow.
    if magic != MAGIC + dimensions or len(content) != start + int(np.prod(shape, dtype=object)):
        raise corrupt(path, f"not an IDX file of {dimensions} dimensions")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def sources() -> tuple[Source, ...]:
    """The four files, by torchvision's mirrors and md5."""
    official = torchvision_datasets().MNIST
    return tuple(_source(official.mirrors, name, md5) for name, md5 in official.resources)


def _source(mirrors: list[str], name: str, md5: str) -> Source:
    plain = name.removesuffix(".gz")
    return Source(
        name=name,
        urls=tuple(mirror + name for mirror in mirrors),
        md5=md5,
        size=SIZES[name],
        instead=tuple(
            (Files(path=place.format(plain), md5=md5 if ".gz" in place else UNPACKED_MD5[plain]),)
            for place in PLACES[1:]
        ),
    )
