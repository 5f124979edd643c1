import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from official import (
    archive_source,
    cifar_files,
    md5,
    one_line,
    serving,
    sha256,
    tar_of,
    tiny_files,
    tree,
    write_files,
    zip_of,
)

from pipeline.datasets import digits
from pipeline.download import download
from pipeline.errors import UserError
from pipeline.plan import load_plan
from pipeline.raw.fetch import Files, Source
from pipeline.raw.receipt import check_receipt, check_stated
from pipeline.store.files import locked

ROOT = Path(__file__).resolve().parents[2]
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
BODY = bytes(range(256)) * 4000  # about four reads
CHECKSUMS = {"sha256": sha256(BODY), "md5": md5(BODY)}
FOLDER = "cifar-10-batches-py"
BATCHES = cifar_files([f"data_batch_{i}" for i in range(1, 6)])
PARAMS = f"""
scale: paper
scales: {{paper: {{}}}}
core: {{prepare: 1, train: 1, average: 1, transfer: 1, evaluate: 1, tabulate: 1, figure: 1}}
mirror: params_mirror
datasets:
  digits: {{classes: 10, channels: 1, size: 8, test: 720, validation: 180, split_seed: 0,
    augment: none, padding: 0, sha256: [{DIGITS_SHA256}]}}
  tiny_imagenet: {{classes: 200, channels: 3, size: 64, validation: 2000, split_seed: 0,
    augment: none, padding: 0, sha256: [{"f" * 64}]}}
tables: {{}}
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        server.files = {"/file.bin": BODY}
        yield server


@pytest.fixture
def cifar():
    content = tar_of({f"{FOLDER}/{name}": data for name, data in BATCHES.items()})
    return content, archive_source("cifar.tar.gz", content, FOLDER, BATCHES)


def test_an_archive_is_fetched_unpacked_and_recorded(server, cifar, tmp_path):
    content, source = cifar
    server.files = {"/cifar10/cifar.tar.gz": content}
    raw = tmp_path / "cifar10"
    download(raw, [source], [sha256(content)], server.url)
    for name, data in BATCHES.items():
        assert (raw / FOLDER / name).read_bytes() == data
    rows = json.loads((raw / "verified.json").read_text())
    assert [row["path"] for row in rows] == [f"{FOLDER}/{name}" for name in BATCHES]
    check_receipt(raw)


def test_a_second_download_changes_nothing_and_asks_nobody(server, cifar, tmp_path):
    content, source = cifar
    server.files = {"/cifar.tar.gz": content}
    raw = tmp_path / "cifar10"
    download(raw, [source], [sha256(content)], server.url)
    before, asked = (raw / "verified.json").stat().st_mtime_ns, len(server.asked)
    download(raw, [source], [sha256(content)], server.url)
    assert (raw / "verified.json").stat().st_mtime_ns == before
    assert len(server.asked) == asked


@pytest.mark.parametrize("place", ["", "cifar10"])
def test_a_mirror_folder_serves_with_and_without_subfolders(cifar, tmp_path, place):
    content, source = cifar
    write_files(tmp_path / "mirror" / place, {source.name: content})
    raw = tmp_path / "raw" / "cifar10"
    download(raw, [source], [sha256(content)], str(tmp_path / "mirror"))
    assert tree(raw / FOLDER) == BATCHES


def test_a_mirror_is_verified_like_any_other_place(cifar, tmp_path):
    content, source = cifar
    write_files(tmp_path / "mirror", {source.name: content[:-1]})
    with one_line("cifar.tar.gz", "expected", "found"):
        download(tmp_path / "cifar10", [source], [sha256(content)], str(tmp_path / "mirror"))
    assert list(tree(tmp_path / "cifar10")) == ["cifar.tar.gz.bad"]


def test_a_mirror_without_the_file_is_one_line(cifar, tmp_path):
    content, source = cifar
    with one_line(tmp_path / "mirror" / "cifar.tar.gz", "No such file", "mirror"):
        download(tmp_path / "cifar10", [source], [sha256(content)], str(tmp_path / "mirror"))


def test_unpacked_official_files_need_no_archive(cifar, tmp_path):
    content, source = cifar
    raw = tmp_path / "cifar10"
    write_files(raw / FOLDER, BATCHES)
    download(raw, [source], [sha256(content)], None)
    assert not (raw / source.name).exists()
    check_receipt(raw)


def test_an_archive_that_is_there_is_unpacked(cifar, tmp_path):
    content, source = cifar
    raw = tmp_path / "cifar10"
    write_files(raw, {source.name: content})
    download(raw, [source], [sha256(content)], None)
    assert tree(raw / FOLDER) == BATCHES


def test_a_bad_unpacked_file_is_kept_aside_and_then_replaced(cifar, tmp_path):
    content, source = cifar
    raw = tmp_path / "cifar10"
    write_files(raw / FOLDER, BATCHES | {"data_batch_2": b"bad"})
    write_files(raw, {source.name: content})
    with one_line(raw / FOLDER / "data_batch_2", md5(BATCHES["data_batch_2"]), md5(b"bad")):
        download(raw, [source], [sha256(content)], None)
    assert (raw / FOLDER / "data_batch_2.bad").read_bytes() == b"bad"
    assert not (raw / "verified.json").exists()
    download(raw, [source], [sha256(content)], None)
    assert tree(raw / FOLDER) == BATCHES
    assert (raw / f"{FOLDER}.bad" / "data_batch_2.bad").read_bytes() == b"bad"


def test_a_bad_file_that_was_there_is_kept_aside_and_then_fetched(server, tmp_path):
    source = Source(name="file.bin", urls=(f"{server.url}/file.bin",), md5=None)
    raw = tmp_path / "set"
    write_files(raw, {"file.bin": b"bad"})
    with one_line(raw / "file.bin", sha256(b"bad"), "file.bin.bad"):
        download(raw, [source], [CHECKSUMS["sha256"]], None)
    download(raw, [source], [CHECKSUMS["sha256"]], None)
    assert (raw / "file.bin").read_bytes() == BODY


def test_torchvisions_md5_is_checked_too(server, tmp_path):
    source = Source(name="file.bin", urls=(f"{server.url}/file.bin",), md5="0" * 32)
    with one_line("file.bin", "md5", "0" * 32, CHECKSUMS["md5"]):
        download(tmp_path / "set", [source], [CHECKSUMS["sha256"]], None)


@pytest.mark.parametrize("is_summed", [True, False])  # of Tiny-ImageNet's files nobody is
def test_a_corrected_archive_serves_once_its_sum_is_stated(cifar, tmp_path, is_summed):
    content, source = cifar
    if not is_summed:
        source = replace(source, instead=((Files(path=f"{FOLDER}/*", count=len(BATCHES)),),))
    mended = BATCHES | {"data_batch_2": b"mended"}
    packed = tar_of({f"{FOLDER}/{name}": data for name, data in mended.items()})
    official, stated, raw = [sha256(content)], [sha256(packed)], tmp_path / "cifar10"

    write_files(raw, {source.name: packed})
    with one_line("kept as cifar.tar.gz.bad", "is the file that you mean, write its sha256"):
        download(raw, [source], official, None, official)
    download(raw, [source], stated, None, official)
    for _ in range(2):
        assert tree(raw / FOLDER) == mended and not (raw / f"{FOLDER}.bad").exists()
        check_receipt(raw)
        check_stated(raw, stated, official)
        download(raw, [source], stated, None, official)

    # And back: what came out of the corrected archive is not taken for official.
    with one_line("verified.json", "is of other files than"):
        check_stated(raw, official, official)
    write_files(tmp_path / "mirror", {source.name: content})
    with one_line("kept as cifar.tar.gz.bad"):
        download(raw, [source], official, str(tmp_path / "mirror"), official)
    download(raw, [source], official, str(tmp_path / "mirror"), official)
    assert tree(raw / FOLDER) == BATCHES
    check_stated(raw, official, official)


def test_unpacked_official_files_are_not_those_of_another_sum(cifar, tmp_path):
    content, source = cifar
    official, raw = [sha256(content)], tmp_path / "cifar10"
    write_files(raw / FOLDER, BATCHES)
    download(raw, [source], official, None, official)
    before = tree(raw)
    check_stated(raw, official, official)
    with one_line("verified.json", "is of other files than", "pipeline.download cifar10"):
        check_stated(raw, ["0" * 64], official)
    with one_line(raw / source.name, "not fetched"):
        download(raw, [source], ["0" * 64], None, official)
    assert tree(raw) == before


def test_a_corrected_unpacked_file_is_told_to_go_into_its_archive(cifar, tmp_path):
    content, source = cifar
    raw = tmp_path / "cifar10"
    write_files(raw / FOLDER, BATCHES | {"data_batch_2": b"mended"})
    with one_line(f"put cifar.tar.gz with it into {raw} and write the sha256 of that"):
        download(raw, [source], [sha256(content)], None)


def test_too_few_checksums_name_the_key(cifar, tmp_path):
    with one_line("params.yaml: datasets.cifar10.sha256", "cifar.tar.gz"):
        download(tmp_path / "cifar10", [cifar[1]], [], None)


def test_a_folder_without_published_sums_is_counted(tmp_path):
    members = tiny_files()
    raw = tmp_path / "tiny"
    group = (Files(path="t/wnids.txt"), Files(path="t/train/*/images/*.JPEG", count=12))
    content = zip_of({f"t/{name}": data for name, data in members.items()})
    urls = ("http://127.0.0.1:1/t.zip",)
    source = Source(name="t.zip", urls=urls, md5=None, folder="t", instead=(group,))
    write_files(raw / "t", members)
    download(raw, [source], [sha256(content)], None)
    check_receipt(raw)
    (raw / "t" / "train" / "n01" / "images" / "n01_0.JPEG").unlink()
    with one_line("train/*/images/*.JPEG", "changed", "pipeline.download"):
        check_receipt(raw)
    write_files(tmp_path / "mirror", {"t.zip": content})
    download(raw, [source], [sha256(content)], str(tmp_path / "mirror"))
    assert tree(raw / "t") == members


def test_two_downloads_at_once_fetch_once(server, tmp_path):
    source = Source(name="file.bin", urls=(f"{server.url}/file.bin",), md5=None)
    raw = tmp_path / "set"
    work = [
        threading.Thread(target=download, args=(raw, [source], [CHECKSUMS["sha256"]], None))
        for _ in range(2)
    ]
    with locked(raw):
        for thread in work:
            thread.start()
        time.sleep(0.1)
        assert server.asked == []
    for thread in work:
        thread.join(10)
    assert len(server.asked) == 1
    assert (raw / "file.bin").read_bytes() == BODY


@pytest.fixture
def clone(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBUST_MIRROR", raising=False)
    return tmp_path


def test_download_and_prepare_work_by_hand(clone, capsys):
    import_module("pipeline.download").main(["digits"])
    import_module("pipeline.prepare").main(["digits"])
    (folder,) = (clone / "data" / "digits").iterdir()
    files = ["prepare.time.json", "test.safetensors", "train.safetensors"]
    files.append("validation.safetensors")
    assert sorted(tree(folder)) == files
    import_module("pipeline.prepare").main(["digits"])
    assert "nothing to do" in capsys.readouterr().out


def test_an_entry_that_states_other_sums_than_its_base_has_files_of_its_own(clone):
    more = f"  fixed: {{base: digits, sha256: [{'f' * 64}]}}\n  other: {{base: digits, test: 9}}\n"
    (clone / "params.yaml").write_text(PARAMS.replace("tables:", f"{more}tables:"))
    raw = {name: load_plan().dataset(name).raw.name for name in ("digits", "fixed", "other")}
    assert raw == {"digits": "digits", "fixed": "fixed", "other": "digits"}
    with one_line("data/raw/fixed/digits.csv.gz: not fetched", "f" * 64):
        import_module("pipeline.download").main(["fixed"])


def test_the_environments_mirror_comes_before_that_of_params(clone, monkeypatch):
    main = import_module("pipeline.download").main
    with one_line(clone / "params_mirror" / "tiny-imagenet-200.zip"):
        main(["tiny_imagenet"])
    monkeypatch.setenv("ROBUST_MIRROR", "http://127.0.0.1:1/other/")
    with one_line("http://127.0.0.1:1/other/tiny_imagenet/tiny-imagenet-200.zip"):
        main(["tiny_imagenet"])


@pytest.mark.parametrize("stage", ["download", "prepare"])
def test_an_unknown_data_set_is_one_line_and_exit_code_1(clone, stage):
    command = [sys.executable, "-m", f"pipeline.{stage}", "digit"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: datasets") and "digits" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_data_set_without_sources_is_one_line(clone, monkeypatch, is_empty):
    monkeypatch.delattr(digits, "sources")
    if is_empty:
        monkeypatch.setattr(digits, "sources", tuple, raising=False)
    with pytest.raises(UserError, match=r"datasets/digits.py: no `sources\(\)` says .* LocalSet"):
        import_module("pipeline.download").main(["digits"])
