import gzip
import json
import lzma
import os
import pickle
import random
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from official import (
    COMMON,
    REAL,
    cifar_files,
    idx,
    jpeg,
    mnist_files,
    one_line,
    raw_of,
    tiny_files,
)

from pipeline.datasets import cifar10, cifar100, digits, mnist, tiny_imagenet
from pipeline.download import download
from pipeline.prepare import prepare
from pipeline.store.files import load_safetensors

DIGITS = digits.Digits(classes=10, channels=1, size=8, test=720, validation=180, **COMMON)
CIFAR10 = cifar10.Cifar10(classes=10, channels=3, size=32, validation=20, **COMMON)
CIFAR100 = cifar100.Cifar100(classes=100, channels=3, size=32, validation=100, **COMMON)
MNIST = mnist.Mnist(classes=10, channels=1, size=28, validation=10, **COMMON)
TINY = tiny_imagenet.TinyImagenet(classes=3, channels=3, size=64, validation=3, **COMMON)

compress = partial(gzip.compress, mtime=0)  # no time in a test's name


def read(folder, split):
    tensors, metadata = load_safetensors(folder / f"{split}.safetensors", "remedy")
    return tensors["images"].numpy(), tensors["labels"].numpy(), metadata


@pytest.fixture
def raw_cifar(tmp_path):
    return raw_of(tmp_path, "cifar10", cifar_files(cifar10.TRAIN), cifar10.FOLDER)


def test_cifar10_batches_keep_pixels_labels_and_names(raw_cifar, tmp_path):
    arrays = CIFAR10.load(raw_cifar)
    CIFAR10.check(arrays, raw_cifar)
    batch = pickle.loads(cifar_files(["data_batch_1"])["data_batch_1"])
    assert arrays.train_images.shape == (300, 3, 32, 32)
    assert arrays.train_images[1, 2, 3, 4] == batch["data"][1, 2 * 1024 + 3 * 32 + 4]
    assert arrays.train_labels[:60].tolist() == batch["labels"]
    assert arrays.names[3] == "class 3"


def test_cifar100_reads_fine_labels(tmp_path):
    files = cifar_files(["train"], per_class=2, classes=100, fine=True)
    raw = raw_of(tmp_path, "cifar100", files, cifar100.FOLDER)
    prepare(CIFAR100, raw, tmp_path / "cifar100" / "a")
    images, labels, metadata = read(tmp_path / "cifar100" / "a", "validation")
    assert sorted(labels) == list(range(100))
    assert json.loads(metadata["classes"])[99] == "class 99"


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("under", ["", "MNIST/raw"])
def test_mnist_reads_idx_files_packed_or_not(tmp_path, compress, under):
    raw = raw_of(tmp_path, "mnist", mnist_files(compress), under)
    prepare(MNIST, raw, tmp_path / "mnist" / "a")
    images, labels, _ = read(tmp_path / "mnist" / "a", "test")
    expected = np.random.default_rng(0)
    expected.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    assert np.array_equal(images[:, 0], expected.integers(0, 256, (20, 28, 28), dtype=np.uint8))
    assert labels.tolist() == [i % 10 for i in range(20)]


def test_a_file_of_mnist_that_would_be_read_for_the_verified_one_is_refused(tmp_path):
    raw = raw_of(tmp_path, "mnist", mnist_files(), "MNIST/raw")
    name = "t10k-labels-idx1-ubyte"
    (raw / name).write_bytes(b"read after the verified one, so not at all")
    shutil.copy(raw / f"MNIST/raw/{name}.gz", raw / f"{name}.gz")  # read before it
    with one_line(raw / f"{name}.gz", "is not the file that was verified; run python -m pipeline."):
        prepare(MNIST, raw, tmp_path / "mnist" / "a")
    (raw / f"{name}.gz").unlink()
    assert prepare(MNIST, raw, tmp_path / "mnist" / "a")


def test_tiny_imagenet_has_sorted_classes_and_grey_images_as_rgb(tmp_path):
    raw = raw_of(tmp_path, "tiny_imagenet", tiny_files(), tiny_imagenet.FOLDER)
    arrays = TINY.load(raw)
    TINY.check(arrays, raw)
    assert arrays.names == ["n01", "n02", "n03"]
    assert arrays.train_images.shape == (12, 3, 64, 64)
    assert arrays.test_labels.tolist() == [1, 1, 0, 0, 2, 2]
    grey, colour = arrays.train_images[0], arrays.train_images[1]
    assert (grey[0] == grey[1]).all() and (grey[0] == grey[2]).all()
    assert (colour[0] != colour[1]).any()


class Malicious:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_malicious_batch_is_refused_and_never_runs(
    raw_cifar, tmp_path, monkeypatch, protocol, name
):
    monkeypatch.chdir(tmp_path)
    path = raw_cifar / cifar10.FOLDER / name
    path.write_bytes(pickle.dumps({"data": Malicious(), "labels": []}, protocol))
    with one_line(path, "posix.system", "pipeline.download"):
        CIFAR10.load(raw_cifar)
    assert not (tmp_path / "owned").exists()


def test_a_damaged_batch_is_one_line_or_loads(raw_cifar):
    path, draw = raw_cifar / cifar10.FOLDER / "test_batch", random.Random(0)
    good = path.read_bytes()
    head = len(good) - 60 * 3072  # most bytes are pixels; flip those that steer
    refused = 0
    for _ in range(300):
        damaged = bytearray(good)
        place = draw.choice([draw.randrange(head // 2), len(good) - 1 - draw.randrange(head // 2)])
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged if draw.random() < 0.8 else damaged[:place])
        refused += _refuses(raw_cifar, path)
    assert refused > 100


def _refuses(raw, path):
    from pipeline.errors import UserError

    try:
        CIFAR10.check(CIFAR10.load(raw), raw)
    except UserError as error:
        assert "\n" not in str(error) and "pipeline.download" in str(error)
        return True
    return False


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"labels": []},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]},
        {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": ["cat", "dog"]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [3, 10]},
    ],
)
def test_a_batch_of_another_kind_is_one_line(raw_cifar, tmp_path, content):
    (raw_cifar / cifar10.FOLDER / "test_batch").write_bytes(pickle.dumps(content))
    with one_line(raw_cifar, "pipeline.download"):
        CIFAR10.check(CIFAR10.load(raw_cifar), raw_cifar)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte.gz", compress(idx(np.zeros((3, 28, 28), np.uint8)))[:30]),
        ("train-images-idx3-ubyte.gz", compress(idx(np.zeros((3, 28), np.uint8)))),
        ("train-images-idx3-ubyte.gz", compress(idx(np.zeros((3, 28, 28), np.uint8))[:-1])),
        ("train-images-idx3-ubyte.gz", compress(idx(np.zeros((60, 27, 28), np.uint8)))),
        ("train-labels-idx1-ubyte.gz", compress(idx(np.full(60, 3, np.uint8)))),
        ("t10k-labels-idx1-ubyte.gz", b"<html>"),
        ("t10k-labels-idx1-ubyte.gz", compress(b"")),
    ],
)
def test_a_damaged_idx_file_is_one_line(tmp_path, name, content):
    raw = raw_of(tmp_path, "mnist", mnist_files() | {name: content})
    with one_line(raw, "pipeline.download"):
        MNIST.check(MNIST.load(raw), raw)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wnids.txt", b"n01\nn02"),
        ("wnids.txt", b"n01\nn02\nn04"),
        ("wnids.txt", b"\xff\xfe"),
        ("train/n01/images/n01_1.JPEG", jpeg()[:200]),
        ("train/n01/images/n01_1.JPEG", b"<html>"),
        ("train/n01/images/n01_1.JPEG", jpeg(size=32)),
        ("train/n09/images/n09_1.JPEG", jpeg()),
        ("val/val_annotations.txt", b"val_0.JPEG\tn09"),
        ("val/val_annotations.txt", b"val_0.JPEG"),
        ("val/val_annotations.txt", b"val_99.JPEG\tn01"),
    ],
)
def test_a_damaged_tiny_imagenet_is_one_line(tmp_path, name, content):
    raw = raw_of(tmp_path, "tiny_imagenet", tiny_files() | {name: content}, tiny_imagenet.FOLDER)
    with one_line(raw, "pipeline.download"):
        TINY.check(TINY.load(raw), raw)


@pytest.mark.parametrize("text", ["", "1,2,3", "x", "17," * 64 + "1", "-1," * 64 + "1"])
def test_damaged_digits_are_one_line(tmp_path, text):
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
    with one_line(tmp_path / "digits.csv.gz", "pipeline.download"):
        DIGITS.load(tmp_path)


@pytest.mark.slow  # seconds to decompress it
@pytest.mark.skipif(not (REAL / "cifar-10-batches-py").is_dir(), reason="no real CIFAR-10")
def test_real_cifar10_batches_are_verified_and_load(tmp_path):
    raw = tmp_path / "raw" / "cifar10"
    folder = raw / cifar10.FOLDER
    folder.mkdir(parents=True)
    shutil.copy(REAL / cifar10.FOLDER / "batches.meta", folder)
    for path in (REAL / cifar10.FOLDER).glob("*.xz"):
        (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    download(raw, cifar10.sources(), ["not needed"], None)
    data = cifar10.Cifar10(**{**vars(CIFAR10), "validation": 1000})
    prepare(data, raw, tmp_path / "cifar10" / "a")
    images, labels, metadata = read(tmp_path / "cifar10" / "a", "train")
    assert images.shape == (49000, 3, 32, 32) and (np.bincount(labels) == 4900).all()
    mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-3)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=1e-3)
    assert json.loads(metadata["classes"])[0] == "airplane"


@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="no real MNIST in ../shared/data")
def test_real_mnist_loads(tmp_path):
    shutil.copytree(REAL / "MNIST", tmp_path / "mnist" / "MNIST")
    arrays = MNIST.load(tmp_path / "mnist")
    MNIST.check(arrays, tmp_path)
    assert arrays.train_images.shape == (60000, 1, 28, 28)
    assert arrays.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert arrays.test_labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.skipif(not (REAL / tiny_imagenet.FOLDER).is_dir(), reason="no real Tiny-ImageNet")
def test_a_real_slice_of_tiny_imagenet_loads(tmp_path):
    shutil.copytree(REAL / tiny_imagenet.FOLDER, folder := tmp_path / tiny_imagenet.FOLDER)
    with one_line("wnids.txt", "names 200 classes, not 4"):
        tiny_imagenet.TinyImagenet(**{**vars(TINY), "classes": 4}).load(tmp_path)
    present = sorted(path.name for path in (folder / "train").iterdir())
    os.chmod(folder, 0o755)
    (folder / "wnids.txt").unlink()
    (folder / "wnids.txt").write_text("\n".join(present))
    data = tiny_imagenet.TinyImagenet(**{**vars(TINY), "classes": 4})
    arrays = data.load(tmp_path)
    data.check(arrays, tmp_path)
    assert arrays.train_images.shape == (80, 3, 64, 64) and len(arrays.test_labels) == 40
    assert torch.tensor(arrays.train_labels).bincount().tolist() == [20] * 4
