"""Data sets of the user's own: what is refused, in one line that never advises to delete."""

import hashlib
import io
import os
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from official import sha256
from PIL import Image

from pipeline.datasets import huggingface
from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.npz import Npz
from pipeline.errors import UserError
from pipeline.raw.local import INSIDE, take
from pipeline.raw.receipt import check_receipt, sum_tree

FIELDS = {"classes": 2, "channels": 1, "size": 4, "validation": 1, "split_seed": 0}
FIELDS |= {"augment": "none", "padding": 0, "sha256": ["none"], "files": "unused"}
IMAGES, LABELS = np.zeros((4, 4, 4), np.uint8), np.array([0, 1, 0, 1])
RIGHT = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}


def load_npz(tmp_path, **arrays):
    np.savez(tmp_path / "files.npz", **{**RIGHT, **arrays})
    (tmp_path / "files.npz").rename(tmp_path / "files")
    found = Npz(**FIELDS)
    arrays = found.load(tmp_path)
    found.check(arrays, tmp_path)
    return arrays


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 4, 1), (4, 1, 4, 4)])
def test_any_of_three_shapes_is_taken(tmp_path, shape):
    assert load_npz(tmp_path, x_train=IMAGES.reshape(shape)).train_images.shape == (4, 1, 4, 4)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x_train": IMAGES / 255}, "x_train is float64; write pixels 0 to 255 as uint8"),
        ({"y_test": LABELS / 2}, "y_test is float64"),
        ({"y_train": LABELS + 1}, "labels are not 0 to 1"),
        ({"x_test": IMAGES[:, 1:]}, r"test images are uint8 \(4, 3, 4\), not \(4, 1, 4, 4\)"),
        ({"x_train": np.array([None] * 4)}, "no .npz file of plain arrays"),
        ({"names": np.array(["one"])}, "1 class names for 2 classes"),
        ({"names": np.array("one")}, "1 class names for 2 classes"),
    ],
)
def test_arrays_that_are_not_what_the_entry_says_are_refused(tmp_path, changed, says):
    with pytest.raises(UserError, match=says) as raised:
        load_npz(tmp_path, **changed)
    text = str(raised.value)
    assert "\n" not in text and "delete" not in text and "mend" in text


def test_an_array_alone_and_an_archive_of_texts_are_refused(tmp_path):
    np.save(tmp_path / "files.npy", IMAGES)
    (tmp_path / "files.npy").rename(tmp_path / "files")
    with pytest.raises(UserError, match="files: is no .npz file of plain arrays") as raised:
        Npz(**FIELDS).load(tmp_path)
    assert "\n" not in str(raised.value)
    with zipfile.ZipFile(tmp_path / "files", "w") as file:
        for name in RIGHT:
            file.writestr(name, "text")
    with pytest.raises(UserError, match=r"x_train is \|S4; write pixels 0 to 255") as raised:
        Npz(**FIELDS).load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face data set, of which names of files are read."""
    arrow = SimpleNamespace(concat_tables=list, ArrowException=OSError)
    monkeypatch.setattr(huggingface, "_pyarrow", lambda part: arrow)
    monkeypatch.setattr(huggingface, "_read_stream", lambda arrow, path: path.name)

    def read(split, *names):
        for name in names:
            (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "hub" / name).touch()
        data = huggingface.Huggingface(**FIELDS, resize=False, image="image", label="label")
        return data._table(tmp_path / "hub", (split,))

    return read


def test_what_the_hubs_library_keeps_of_its_map_is_no_data(hub):
    rows = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert hub("train", *(f"train/{name}" for name in ("cache-1f2e3d.arrow", *rows))) == rows


def test_a_split_whose_name_goes_on_is_another_one(hub, tmp_path):
    names = ("test-0.arrow", "test-1.arrow", "test_small-0.arrow", "testing.arrow")
    assert hub("test", *names) == ["test-0.arrow", "test-1.arrow"]
    with pytest.raises(UserError, match=r"no .parquet or .arrow files named train.\* or train-\*"):
        hub("train")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/train.arrow").touch()
    (tmp_path / "hub/linked").symlink_to(tmp_path / "disk")
    assert hub("train") == ["train.arrow"]


@pytest.mark.parametrize(
    ("labels", "held"),
    [([[0], [1]], "list<.*>"), ([0, None], "1 empty cells"), ([0.0, 1.0], "double")],
)
def test_labels_that_are_no_class_numbers_are_refused(tmp_path, labels, held):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    picture = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(picture, "PNG")
    images = [{"bytes": picture.getvalue(), "path": None}] * 2
    (tmp_path / "files").mkdir()
    for split in ("train", "test"):
        table = pyarrow.table({"image": images, "label": labels})
        parquet.write_table(table, tmp_path / "files" / f"{split}.parquet")
    data = huggingface.Huggingface(**FIELDS, resize=False, image="image", label="label")
    with pytest.raises(UserError, match=f"column label holds {held}, not class numbers") as raised:
        data.load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("names", [
    ("snapshots/1a/data/train-0.arrow", "snapshots/2b/data/train-0.arrow"),
    ("clean/train/data-0.arrow", "noisy/train/data-0.arrow"),
    ("train.arrow", "train.parquet"),
])  # fmt: skip
def test_two_configs_or_revisions_are_not_read_as_one(hub, names):
    with pytest.raises(UserError, match=r"has the split train more than once, in \S+ and in") as e:
        hub("train", *names)
    text = str(e.value)
    assert "\n" not in text and "`files` must name a folder with one" in text
    assert all(str(Path(name).with_name("*" + Path(name).suffix)) in text for name in names)


def test_a_picture_of_another_size_or_class_is_refused_by_name(tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (tmp_path / "files" / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4)).save(tmp_path / "files" / split / name / "1.png")
    with pytest.raises(UserError, match=r"train/a/1.png: is 5x4, not 4x4 \(resize: false\)"):
        ImageFolder(**FIELDS, resize=False).load(tmp_path)
    (tmp_path / "files/test/c").mkdir()
    with pytest.raises(UserError, match=r"files/test: has other classes than train \(such as c\)"):
        ImageFolder(**FIELDS, resize=True).load(tmp_path)
    with pytest.raises(UserError, match="train: is no folder of classes with images"):
        ImageFolder(**FIELDS, resize=True).load(tmp_path / "nothing")


def test_a_picture_of_more_than_8_bits_is_refused_by_name(tmp_path):
    """Not made white: its values are cut off at 255 by a conversion."""
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (tmp_path / "files" / split / name).mkdir(parents=True, exist_ok=True)
        grey = np.arange(0, 16000, 1000, dtype=np.uint16).reshape(4, 4)
        Image.fromarray(grey).save(tmp_path / "files" / split / name / "1.png")
    with pytest.raises(UserError, match="train/a/1.png: .*more than 8 bits a channel; save it"):
        ImageFolder(**FIELDS, resize=False).load(tmp_path)


def write_pictures(folder):
    """A picture of each of two classes in either split."""
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (folder / split / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(folder / split / name / "1.png")


def test_pictures_behind_a_linked_folder_are_read(tmp_path):
    write_pictures(tmp_path / "files")
    (tmp_path / "more").mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / "more/2.png")
    (tmp_path / "files/train/a/more").symlink_to(tmp_path / "more")
    (tmp_path / "more/up").symlink_to(tmp_path / "files")
    arrays = ImageFolder(**FIELDS, resize=False).load(tmp_path)
    assert arrays.train_images.max((1, 2, 3)).tolist() == [0, 255, 0]
    assert arrays.train_labels.tolist() == [0, 0, 1] and len(arrays.test_labels) == 2

    (tmp_path / "more/2.png").rename(tmp_path / "more/3")  # which left a link to nothing behind
    (tmp_path / "more/2.png").symlink_to("nowhere")
    with pytest.raises(UserError, match="train/a/more/2.png: is no image that can be read"):
        ImageFolder(**FIELDS, resize=False).load(tmp_path)


def test_a_picture_of_more_pixels_than_pillow_opens_is_refused_by_name(tmp_path, monkeypatch):
    write_pictures(tmp_path / "files")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # it refuses twice as many
    with pytest.raises(UserError, match="train/a/1.png: is no image that can be read .*exceeds"):
        ImageFolder(**FIELDS, resize=True).load(tmp_path)


def test_a_name_that_is_no_utf8_is_summed(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/caf\u00e9").write_bytes(b"one")
    found = hashlib.sha256(f"files/caf\u00e9 {sha256(b'one')}\n".encode()).hexdigest()
    assert sum_tree(tmp_path, INSIDE) == found
    (tmp_path / "files" / os.fsdecode(b"caf\xe9")).write_bytes(b"two")
    assert sum_tree(tmp_path, INSIDE) != found


def test_files_are_linked_summed_and_left_alone(tmp_path):
    place, raw = tmp_path / "theirs", tmp_path / "data/raw/mine"
    with pytest.raises(UserError, match="datasets.mine.files: is none"):
        take(raw, "none", ["none"])
    with pytest.raises(UserError, match="no such file or folder"):
        take(raw, str(place), ["none"])
    place.mkdir()
    with pytest.raises(UserError, match="holds no file"):
        take(raw, str(place), ["none"])

    (place / "1.png").write_bytes(b"one")
    with pytest.raises(UserError, match=r"write sha256: \[[0-9a-f]{64}\]$") as raised:
        take(raw, str(place), ["none"])
    assert not (raw / "verified.json").exists()
    stated = str(raised.value)[-65:-1]
    assert "1 files, checksum right" in take(raw, str(place), [stated])
    check_receipt(raw)

    (place / "1.png").write_bytes(b"two")
    with pytest.raises(UserError, match="changed since it was verified"):
        check_receipt(raw)
    with pytest.raises(UserError, match="has another"):
        take(raw, str(place), [stated])
    assert [p.name for p in place.iterdir()] == ["1.png"]

    (tmp_path / "data/raw/other").mkdir()
    (tmp_path / "data/raw/other/files").write_text("not a link")
    with pytest.raises(UserError, match="is in the way of a link"):
        take(tmp_path / "data/raw/other", str(place), [stated])


def test_files_behind_links_of_a_folder_are_summed_and_a_link_upwards_ends(tmp_path):
    place, disk, raw = tmp_path / "theirs", tmp_path / "disk", tmp_path / "data/raw/mine"
    for folder in (place, disk / "cats"):
        folder.mkdir(parents=True)
    (place / "readme").write_bytes(b"about")
    (disk / "cats/1.png").write_bytes(b"one")
    (place / "train").symlink_to(disk)
    (disk / "cats/up").symlink_to(place)
    with pytest.raises(UserError, match="has another") as raised:
        take(raw, str(place), ["none"])
    stated = re.search("[0-9a-f]{64}", str(raised.value))[0]
    assert "2 files, checksum right" in take(raw, str(place), [stated])
    check_receipt(raw)
    (disk / "cats/1.png").write_bytes(b"two")
    with pytest.raises(UserError, match="changed since it was verified"):
        check_receipt(raw)
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="changed since it was verified"):
        check_receipt(raw)


@pytest.mark.parametrize("place", ["data/mine", "data/mine/train", "data", ".", "data/raw/mine"])
def test_files_among_which_we_would_write_are_refused(tmp_path, monkeypatch, place):
    """Prepared arrays would be files of theirs, and their sum another one after each."""
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/mine")
    for folder in (Path("data/mine/train"), raw):
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"one")
    (tmp_path / "link").symlink_to(Path(place).absolute())
    for given in (place, "link"):
        with pytest.raises(
            UserError, match=f"files: {given}: data/mine and data/raw/mine are"
        ) as e:
            take(raw, given, ["none"])
        assert "\n" not in str(e.value) and "move your files to a folder elsewhere" in str(e.value)
    assert sorted(p.name for p in Path("data").rglob("*.*")) == ["1.png", "1.png"]

    for apart in ("data/raw/mine/pictures", "data/mined"):
        (tmp_path / apart).mkdir()
        (tmp_path / apart / "1.png").write_bytes(b"one")
        with pytest.raises(UserError, match="if these are the files that you mean"):
            take(raw, apart, ["none"])
