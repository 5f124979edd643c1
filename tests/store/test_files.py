import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from official import full_disk, one_line, tree
from safetensors import safe_open

from pipeline.store.files import load_safetensors, locked, save_safetensors, write_atomic

TENSORS = {
    "images": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2),
    "labels": torch.tensor([1, -1]),
    "0.weight": torch.linspace(-1, 1, 6).reshape(2, 3),
    "0.half": torch.linspace(-1, 1, 3).to(torch.bfloat16),
    "0.seen": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
    "one": torch.arange(10.0)[3::9],
    "turned": torch.arange(6.0).reshape(2, 3).T,
}
METADATA = {f"key {i}": f"value \u00e9 {i}" for i in range(8)}


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.csv"
    write_atomic(path, b"old")
    with full_disk(1000), one_line(path, "File too large", "run the same command again"):
        write_atomic(path, b"x" * 2000)
    assert tree(tmp_path) == {"table.csv": b"old"}


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.csv"
    write_atomic(path, b"old")

    def write(file):
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomic(path, write)
    assert tree(tmp_path) == {"table.csv": b"old"}


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    write_atomic(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from pipeline.store.files import write_atomic\n"
        "def write(file):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
        f"write_atomic(Path({str(path)!r}), write)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_leftovers_of_killed_writers_are_swept_after_a_day(tmp_path):
    old, fresh, other = ".table.csv.aa.tmp", ".table.csv.bb.tmp", ".other.csv.aa.tmp"
    for name in (old, fresh, other):
        (tmp_path / name).write_bytes(b"half")
    for name in (old, other):
        os.utime(tmp_path / name, (time.time() - 2 * 86400,) * 2)
    write_atomic(tmp_path / "table.csv", b"new")
    assert sorted(tree(tmp_path)) == [other, fresh, "table.csv"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with one_line(tmp_path / "file" / "table.csv", "cannot be written"):
        write_atomic(tmp_path / "file" / "table.csv", b"new")


def test_files_are_readable_by_colleagues(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "table.csv", b"new")
    finally:
        os.umask(old)
    assert (tmp_path / "table.csv").stat().st_mode & 0o777 == 0o644


def test_a_lock_makes_the_second_wait(tmp_path, capsys):
    order = []

    def second():
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert "waiting" in capsys.readouterr().out


def test_safetensors_come_back_and_the_library_reads_them(tmp_path):
    path = tmp_path / "x.safetensors"
    save_safetensors(path, TENSORS, METADATA)
    tensors, metadata = load_safetensors(path, "remedy")
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    with safe_open(path, "pt") as file:
        for name, tensor in TENSORS.items():
            assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
            assert torch.equal(file.get_tensor(name), tensor)


def test_safetensors_bytes_do_not_depend_on_order(tmp_path):
    save_safetensors(tmp_path / "a", TENSORS, METADATA)
    backwards = dict(reversed(TENSORS.items())), dict(reversed(METADATA.items()))
    save_safetensors(tmp_path / "b", *backwards)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_kind_of_damage_to_safetensors_is_one_line(tmp_path):
    path, draw = tmp_path / "x.safetensors", random.Random(0)
    save_safetensors(path, TENSORS, METADATA)
    good = path.read_bytes()
    damaged = [good[:n] for n in (0, 4, 8, 100, len(good) - 1)] + [good + b"x", b"<html>" * 50]
    for _ in range(400):
        bit = draw.randrange(8 * len(good))
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with one_line(path, "truncated or corrupt", "make it again"):
            load_safetensors(path, "make it again")


def test_missing_safetensors_are_one_line(tmp_path):
    with one_line(tmp_path / "x", "is missing", "make it again"):
        load_safetensors(tmp_path / "x", "make it again")
