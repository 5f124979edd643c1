"""Data sets of the user's own: each kind's pixels and classes, from the file to the arrays."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import huggingface
from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.npz import Npz
from pipeline.errors import UserError
from pipeline.prepare import prepare
from pipeline.raw.local import take
from pipeline.store.files import load_safetensors

FIELDS = {"classes": 2, "channels": 3, "size": 4, "validation": 2, "split_seed": 0}
FIELDS |= {"augment": "none", "padding": 0, "files": "unused"}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), np.uint8)  # no symmetry
CLASSES = [1, 0, 1, 0]


class Table:
    """These pictures and classes as pyarrow reads them from a Hugging Face file."""

    column_names, schema = ("image", "label"), SimpleNamespace(metadata=None)

    def column(self, name):
        buffers = [io.BytesIO() for _ in PIXELS]
        for pixels, buffer in zip(PIXELS, buffers, strict=True):
            Image.fromarray(pixels).save(buffer, "PNG")
        pictures = [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers]
        values = pictures if name == "image" else CLASSES
        own = {"to_pylist": lambda: values, "to_numpy": lambda: np.array(values)}
        return SimpleNamespace(**own, null_count=0, type="int64")


def write_own(kind, place):
    """The same four pictures and classes for training and test, as a user of each kind has them."""
    if kind.startswith("npz"):
        images = PIXELS.transpose(0, 3, 1, 2) if kind == "npz, channels first" else PIXELS
        with place.open("wb") as file:
            np.savez(file, x_train=images, y_train=CLASSES, x_test=images, y_test=CLASSES)
        return Npz
    for split in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(PIXELS, CLASSES, strict=True)):
            folder = place / split / "ab"[label]
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                Image.fromarray(pixels).save(folder / f"{number}.png")
        if kind == "hub":
            (place / f"{split}.arrow").write_bytes(b"rows")
    return ImageFolder if kind == "folder" else huggingface.Huggingface


@pytest.mark.parametrize("kind", ["folder", "npz", "npz, channels first", "hub"])
def test_every_pixel_and_class_of_a_users_files_is_prepared_as_it_is(tmp_path, monkeypatch, kind):
    arrow = SimpleNamespace(concat_tables=lambda parts: parts[0], ArrowException=OSError)
    monkeypatch.setattr(huggingface, "_pyarrow", lambda part: arrow)
    monkeypatch.setattr(huggingface, "_read_stream", lambda arrow, path: Table())
    monkeypatch.setattr("pipeline.prepare.check_overlap", lambda *_, **__: None)
    place, raw = tmp_path / "theirs", tmp_path / "data/raw/mine"
    component = write_own(kind, place)
    with pytest.raises(UserError, match="has another") as raised:
        take(raw, str(place), ["none"])
    stated = [re.search("[0-9a-f]{64}", str(raised.value))[0]]
    take(raw, str(place), stated)

    own = {"resize": False} if component is not Npz else {}
    own |= {"image": "image", "label": "label"} if kind == "hub" else {}
    prepare(component(**FIELDS, sha256=stated, **own), raw, tmp_path / "data/mine/0a1b")

    def read(*splits):
        files = [tmp_path / f"data/mine/0a1b/{split}.safetensors" for split in splits]
        tensors = [load_safetensors(file, "")[0] for file in files]
        return sorted(
            (image.permute(1, 2, 0).numpy().tobytes(), int(label))
            for of in tensors
            for image, label in zip(of["images"], of["labels"], strict=True)
        )

    theirs = sorted((p.tobytes(), label) for p, label in zip(PIXELS, CLASSES, strict=True))
    assert read("test") == read("train", "validation") == theirs
