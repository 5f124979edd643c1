import gzip
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from official import (
    COMMON,
    cifar_files,
    full_disk,
    one_line,
    raw_of,
    sha256,
    tree,
)
from projects import small

from pipeline.contracts.dataset import Arrays, stratified
from pipeline.core.layers import Normalise
from pipeline.datasets import cifar10, digits
from pipeline.datasets.npz import Npz
from pipeline.download import download
from pipeline.download import main as download_job
from pipeline.errors import UserError
from pipeline.loading.images import load_split
from pipeline.plan import Dataset
from pipeline.prepare import SPLITS, channel_statistics, check_images, check_overlap, prepare
from pipeline.prepare import main as prepare_job
from pipeline.raw.local import take
from pipeline.share import writer
from pipeline.store.files import load_safetensors, save_safetensors

DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
NAMED = {**COMMON, "sha256": [DIGITS_SHA256]}
DIGITS = digits.Digits(classes=10, channels=1, size=8, test=720, validation=180, **NAMED)
CIFAR10 = cifar10.Cifar10(classes=10, channels=3, size=32, validation=20, **COMMON)
PREPARED_DIGITS = {  # first digits of sha256; another value needs `core: prepare:` bumped
    "train": "d9dfcc42ee2c66a5",
    "validation": "ca9ae5796add0212",
    "test": "b39dc84647e4d13d",
}


def read(folder, split):
    tensors, metadata = load_safetensors(folder / f"{split}.safetensors", "remedy")
    return tensors["images"].numpy(), tensors["labels"].numpy(), metadata


@pytest.fixture
def raw_digits(tmp_path):
    raw = tmp_path / "raw" / "digits"
    download(raw, digits.sources(), [DIGITS_SHA256], None)
    return raw


@pytest.fixture
def raw_cifar(tmp_path):
    return raw_of(tmp_path, "cifar10", cifar_files(cifar10.TRAIN), cifar10.FOLDER)


def test_digits_become_three_splits_of_uint8(raw_digits, tmp_path):
    folder = tmp_path / "digits" / "abc"
    assert prepare(DIGITS, raw_digits, folder)
    sizes = dict(zip(SPLITS, (897, 180, 720), strict=True))
    for split, size in sizes.items():
        images, labels, metadata = read(folder, split)
        assert images.shape == (size, 1, 8, 8) and images.dtype == np.uint8
        assert labels.shape == (size,) and labels.dtype == np.int64
        assert (metadata["dataset"], metadata["digest"]) == ("digits", "abc")
        assert json.loads(metadata["classes"]) == [str(i) for i in range(10)]
    assert images.min() == 0 and images.max() == 255 and 128 in images


def test_digits_are_all_there_and_split_without_overlap(raw_digits, tmp_path):
    folder = tmp_path / "digits" / "abc"
    prepare(DIGITS, raw_digits, folder)
    found = np.concatenate([read(folder, split)[0] for split in SPLITS])
    lines = gzip.decompress((raw_digits / "digits.csv.gz").read_bytes()).decode().splitlines()
    rows = np.loadtxt(lines, delimiter=",")
    expected = np.array([[round(v * 255 / 16) for v in row] for row in rows[:, :-1]], np.uint8)
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))
    assert len(set(map(bytes, found))) == 1797  # so a shared image would show


def test_statistics_are_those_of_the_training_images(raw_digits, tmp_path):
    folder = tmp_path / "digits" / "abc"
    prepare(DIGITS, raw_digits, folder)
    images, _, metadata = read(folder, "train")
    np.testing.assert_allclose(json.loads(metadata["mean"]), [(images / 255).mean()], rtol=1e-12)
    np.testing.assert_allclose(json.loads(metadata["std"]), [(images / 255).std()], rtol=1e-12)
    assert metadata["mean"] == read(folder, "test")[2]["mean"]


def test_prepared_digits_have_their_golden_bytes(raw_digits, tmp_path):
    folder = tmp_path / "digits" / "abc"
    prepare(DIGITS, raw_digits, folder)
    found = {split: sha256((folder / f"{split}.safetensors").read_bytes())[:16] for split in SPLITS}
    assert found == PREPARED_DIGITS


def arrays(folder):
    """What is read of a folder: neither times nor what a killed writer left."""
    found = {} if not folder.exists() else tree(folder)
    return {n: d for n, d in found.items() if n.endswith(".safetensors") and n[0] != "."}


def test_a_finished_folder_is_never_rewritten(raw_digits, tmp_path):
    folder = tmp_path / "digits" / "abc"
    prepare(DIGITS, raw_digits, folder)
    times = {split: (folder / f"{split}.safetensors").stat().st_mtime_ns for split in SPLITS}
    before = arrays(folder)
    assert not prepare(DIGITS, raw_digits, folder)
    (folder / "validation.safetensors").unlink()
    assert prepare(DIGITS, raw_digits, folder)
    assert arrays(folder) == before
    assert (folder / "train.safetensors").stat().st_mtime_ns == times["train"]


def test_a_full_disk_is_one_line_and_the_next_run_completes(raw_digits, tmp_path):
    folder = tmp_path / "digits" / "abc"
    prepare(DIGITS, raw_digits, tmp_path / "other" / "digits" / "abc")
    with full_disk(30_000), one_line("train.safetensors", "File too large", "free space"):
        prepare(DIGITS, raw_digits, folder)
    assert tree(folder) == {}
    prepare(DIGITS, raw_digits, folder)
    assert arrays(folder) == arrays(tmp_path / "other" / "digits" / "abc")


def test_a_kill_at_any_moment_leaves_whole_files_only(raw_digits, tmp_path):
    good = tmp_path / "good" / "digits" / "abc"
    start = time.monotonic()
    prepare(DIGITS, raw_digits, good)
    span, whole = time.monotonic() - start, arrays(good)
    folder, context = tmp_path / "digits" / "abc", multiprocessing.get_context("fork")
    for draw in range(16):
        child = context.Process(target=prepare, args=(DIGITS, raw_digits, folder))
        child.start()
        time.sleep(span * draw / 12)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert arrays(folder).items() <= whole.items()
    prepare(DIGITS, raw_digits, folder)
    assert arrays(folder) == whole


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8),
    st.floats(0, 0.9),
    st.integers(0, 2**32 - 1),
)
def test_a_split_is_disjoint_complete_and_in_proportion(sizes, share, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(0).permutation(labels)
    count = int(share * len(labels))
    kept, held = stratified(labels, count, seed)
    assert len(held) == count
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert list(kept) == sorted(kept) and list(held) == sorted(held)
    for label, size in enumerate(sizes):
        assert abs((labels[held] == label).sum() - count * size / len(labels)) < 1
    again = stratified(labels, count, seed)
    assert np.array_equal(kept, again[0]) and np.array_equal(held, again[1])


def test_another_seed_is_another_split_of_the_same_test_images(raw_cifar, tmp_path):
    other = cifar10.Cifar10(**{**vars(CIFAR10), "split_seed": 1})
    prepare(CIFAR10, raw_cifar, tmp_path / "cifar10" / "a")
    prepare(other, raw_cifar, tmp_path / "cifar10" / "b")
    a, b = (
        {split: read(tmp_path / "cifar10" / digest, split)[0] for split in SPLITS}
        for digest in "ab"
    )
    assert np.array_equal(a["test"], b["test"])
    assert not np.array_equal(a["validation"], b["validation"])


def test_no_validation_images_means_all_train(raw_cifar, tmp_path):
    data = cifar10.Cifar10(**{**vars(CIFAR10), "validation": 0})
    prepare(data, raw_cifar, tmp_path / "cifar10" / "a")
    assert len(read(tmp_path / "cifar10" / "a", "train")[0]) == 300
    assert read(tmp_path / "cifar10" / "a", "validation")[0].shape == (0, 3, 32, 32)


@pytest.mark.parametrize("count", [300, -1])
def test_an_impossible_number_of_validation_images_names_the_key(raw_cifar, tmp_path, count):
    data = cifar10.Cifar10(**{**vars(CIFAR10), "validation": count})
    with one_line("300 images", "`validation`", "params.yaml"):
        prepare(data, raw_cifar, tmp_path / "cifar10" / "a")
    assert not (tmp_path / "cifar10").exists()


def test_channel_statistics_agree_with_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 5), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-12)


def test_a_channel_that_never_varies_is_moved_to_0_and_not_scaled(tmp_path, monkeypatch):
    """Micrographs without blue: 0 / 0 was found after an epoch, as a loss that is no number."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    images[..., 2] = 51
    labels = np.arange(20) % 2
    np.savez("mine.npz", x_train=images, y_train=labels, x_test=images[:, ::-1], y_test=labels)
    own = {"classes": 2, "channels": 3, "size": 4, "validation": 0, "files": "mine.npz"}
    own |= {"sha256": [sha256(Path("mine.npz").read_bytes())]}
    data = Npz(**{**COMMON, **own})
    take(Path("data/raw/mine"), data.files, data.sha256)
    dataset = Dataset("mine", "npz", vars(data), "abc")
    prepare(data, Path("data/raw/mine"), dataset.folder)

    split = load_split(dataset, "train", torch.device("cpu"))
    assert json.loads(read(dataset.folder, "train")[2]["std"])[2] == 0  # what the images have
    assert split.std[2] == 1 and split.std[:2] == pytest.approx([0.29] * 2, abs=0.03)
    normalised = Normalise(3, split.mean, split.std)(split.floats())
    assert not normalised[:, 2].any() and normalised.isfinite().all()


def test_a_users_own_test_images_are_not_mostly_training_images(capsys):
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 4), dtype=np.uint8)
    labels = np.zeros(30, np.int64)

    def check(shared, is_own=True):
        test = np.concatenate([images[:shared], images[20 + shared :]])  # ten of them
        arrays = Arrays(images[:20], labels[:20], test, labels[:10], ["one"])
        check_overlap(arrays, "mine", is_own=is_own)
        return capsys.readouterr().out

    assert check(0) == ""
    assert check(5) == "mine: 5 of its 10 test images are training images too\n"
    with one_line("params.yaml: datasets.mine: 6 of its 10 test images are training images too"):
        check(6)
    assert check(10, is_own=False) == "mine: 10 of its 10 test images are training images too\n"


def test_nothing_downloaded_names_the_command(tmp_path):
    with one_line("verified.json", "is missing", "python -m pipeline.download cifar10"):
        prepare(CIFAR10, tmp_path / "raw" / "cifar10", tmp_path / "cifar10" / "a")


def test_a_raw_file_that_changed_since_is_noticed(raw_digits, tmp_path):
    path = raw_digits / "digits.csv.gz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with one_line(path, "changed since it was verified", "python -m pipeline.download digits"):
        prepare(DIGITS, raw_digits, tmp_path / "digits" / "abc")


NO_SUM = b'[{"path": "digits.csv.gz", "files": 1, "bytes": 3}]'
CLIMBS = b'[{"path": "../x", "files": 1, "bytes": 3, "md5": "%s"}]' % (b"0" * 32)
NONE = [b"", b"{", b"[]", b"{}", b"[1]", b"7", b'[{"path": 7}]', b"\xff", b"[" * 99999]


@pytest.mark.parametrize("content", [*NONE, NO_SUM, CLIMBS])
def test_a_damaged_receipt_is_one_line(raw_digits, tmp_path, content):
    (raw_digits / "verified.json").write_bytes(content)
    with one_line("verified.json", "is no receipt of verified files", "pipeline.download digits"):
        prepare(DIGITS, raw_digits, tmp_path / "digits" / "abc")


@pytest.mark.parametrize("size", [0, 100])
def test_a_truncated_prepared_file_is_one_line(tmp_path, size):
    path = tmp_path / "test.safetensors"
    save_safetensors(path, {"labels": torch.zeros(50)}, {})
    path.write_bytes(path.read_bytes()[:size])
    with one_line(path, "truncated or corrupt", "run python -m pipeline.prepare digits"):
        check_images(None, SimpleNamespace(folder=tmp_path, name="digits"))


def test_a_table_of_more_images_than_a_set_has_is_refused_when_it_is_prepared(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    parts = {}
    for split, count in (("train", 20), ("test", 50)):
        parts[f"x_{split}"] = np.full((count, 8, 8), count, np.uint8)
        parts[f"y_{split}"] = np.arange(count) % 2
    np.savez("mine.npz", **parts)
    own = {"classes": 2, "channels": 1, "size": 8, "validation": 4, "files": "mine.npz"}
    own |= {"augment": "none", "padding": 0, "sha256": [sha256(Path("mine.npz").read_bytes())]}
    for images in (600, 50):
        params = small(images=images)
        params["datasets"]["mine"] = {"base": "npz", **own}
        stand_in = {"dataset": "mine", "eps_factor": 1}
        params["scales"]["demo"]["stand_ins"]["cifar10"] = stand_in
        writer.write(tmp_path, params)
        download_job(["mine"])
        if images > 50:
            with one_line("tables.table1.images: 600 asked for, mine has 50 to test"):
                prepare_job(["mine"])
    prepare_job(["mine"])


@pytest.fixture
def returning(raw_digits, monkeypatch):
    """Prepare the digits into a folder, from arrays as a user's own `load` may return them."""

    def make(folder, **changed):
        arrays = DIGITS.load(raw_digits)
        parts = {part: change(getattr(arrays, part)) for part, change in changed.items()}
        with monkeypatch.context() as patch:
            patch.setattr(digits.Digits, "load", lambda self, raw: arrays._replace(**parts))
            prepare(DIGITS, raw_digits, folder)
        return tree(folder)

    return make


def test_integers_of_any_size_and_mirrored_images_are_stored_as_training_reads_them(
    returning, tmp_path
):
    """Labels of int32 were written, and then refused by every training."""
    expected = returning(tmp_path / "digits" / "abc")
    other = {
        "train_labels": lambda labels: labels.astype(np.uint8),
        "test_labels": lambda labels: labels.astype(np.int32),
        "test_images": lambda images: images[:, :, ::-1].copy()[:, :, ::-1],
    }
    found = returning(tmp_path / "again" / "digits" / "abc", **other)
    assert {**found, "prepare.time.json": 0} == {**expected, "prepare.time.json": 0}


@pytest.mark.parametrize("change", [lambda labels: labels[:, None], lambda labels: labels * 1.0])
def test_labels_that_are_no_integers_of_each_image_name_their_reader(returning, tmp_path, change):
    for part in ("train_labels", "test_labels"):
        with pytest.raises(UserError, match=r"datasets/digits.py: `load` gives labels .* return"):
            returning(tmp_path / "digits" / "abc", **{part: change})
