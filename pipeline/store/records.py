"""Records on disk: named arrays in one .npz without pickles, equal contents equal bytes."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

Arrays = dict[str, NDArray[Any]]


def pack(arrays: Arrays) -> bytes:
    """The bytes of an .npz; numpy dates its members 1980, so they repeat."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: arrays[k] for k in sorted(arrays)})  # type: ignore[arg-type]
    return buffer.getvalue()


def read_arrays(path: Path) -> Arrays:
    """All arrays of a record; raises UserError when it is missing, truncated or altered."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; pull it or run python -m pipeline.evaluate") from None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(f"{path}: truncated or corrupt ({e}); delete it and evaluate again") from e


def meta(arrays: Arrays) -> dict[str, Any]:
    """What the record says of itself: spec, victim, weights, cost."""
    loaded: dict[str, Any] = json.loads(str(arrays["meta"]))
    return loaded
