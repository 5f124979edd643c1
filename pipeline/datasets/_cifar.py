"""Official CIFAR python batches, read without trusting them: they are pickles."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contracts.dataset import Images, Labels, corrupt


def _reconstruct(*_: object) -> Any:
    """The empty array whose type, shape and contents a pickle sets next, as numpy does it."""
    return np.empty(0, np.uint8)


# All that the official files call. Newer numpy spells the first one's module with an underscore.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Restricted(pickle._Unpickler):
    """An unpickler that finds arrays and nothing else.

    In Python, because the one in C reserves as much memory as a damaged index asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            wanted = f"{module}.{name}"
            raise pickle.UnpicklingError(f"it asks for {wanted!r}, which no batch needs")
        return ALLOWED[module, name]


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a batch file; raises UserError when it holds or asks for anything else."""
    try:
        content = _Restricted(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise corrupt(path, f"not an official batch ({error})") from error

    if not isinstance(content, dict):
        raise corrupt(path, "not an official batch (no mapping in it)")
    return content


def read_batches(paths: list[Path], key: str, channels: int, size: int) -> tuple[Images, Labels]:
    """Images uint8 [N, channels, size, size] and the labels under `key` of several batches."""
    images, labels = zip(*(_read_batch(p, key, (channels, size, size)) for p in paths), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_batch(path: Path, key: str, shape: tuple[int, int, int]) -> tuple[Images, Labels]:
    content = read_mapping(path)
    try:
        images = np.asarray(content["data"])
        labels = np.asarray(content[key], dtype=np.int64)
        if images.dtype != np.uint8 or labels.shape != images.shape[:1]:
            raise ValueError(f"{images.dtype} images, labels of shape {labels.shape}")
        return images.reshape(-1, *shape), labels
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise corrupt(path, f"not an official batch ({error!r})") from error


def read_names(path: Path, key: str) -> list[str]:
    """Class names under `key` of a meta file."""
    names = read_mapping(path).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise corrupt(path, f"no class names under {key}")
    return names
