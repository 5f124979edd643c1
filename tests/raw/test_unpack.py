import tarfile
import zipfile

import pytest
from official import (
    full_disk,
    one_line,
    tar_of,
    tree,
    write_files,
    zip_of,
)

from pipeline.raw.unpack import unpack

BODY = bytes(range(256)) * 4000  # about four reads


def _special(kind):
    info = tarfile.TarInfo("top/special")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def _zip_link():
    info = zipfile.ZipInfo("top/link")
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("up.tar.gz", tar_of({"top/a": b"a", "top/../../escaped": b"x"})),
        ("absolute.tar.gz", tar_of({"top/a": b"a", "/tmp/escaped": b"x"})),
        ("elsewhere.tar.gz", tar_of({"top/a": b"a", "other/escaped": b"x"})),
        ("symlink.tar.gz", tar_of({"top/a": b"a", "s": _special(tarfile.SYMTYPE)})),
        ("hardlink.tar.gz", tar_of({"top/a": b"a", "s": _special(tarfile.LNKTYPE)})),
        ("device.tar.gz", tar_of({"top/a": b"a", "s": _special(tarfile.CHRTYPE)})),
        ("pipe.tar.gz", tar_of({"top/a": b"a", "s": _special(tarfile.FIFOTYPE)})),
        ("up.zip", zip_of({"top/a": b"a", "top/../../escaped": b"x"})),
        ("absolute.zip", zip_of({"top/a": b"a", "/escaped": b"x"})),
        ("link.zip", zip_of({"top/a": b"a", _zip_link(): b"/etc/passwd"})),
    ],
)
def test_a_malicious_archive_is_refused_and_leaves_nothing(tmp_path, name, content):
    raw = tmp_path / "raw"
    write_files(raw, {name: content})
    with one_line(raw / name, "refused", "member"):
        unpack(raw / name, raw / "top")
    assert tree(tmp_path) == {f"raw/{name}": content}


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:40] + b"x" + b[41:]])
def test_a_damaged_archive_is_one_line_and_leaves_nothing(tmp_path, make, damage):
    name = "top.zip" if make is zip_of else "top.tar.gz"
    content = damage(make({"top/a": BODY, "top/b": bytes(5000)}))
    write_files(tmp_path, {name: content})
    with one_line(tmp_path / name, "cannot be unpacked", "move it away and run again"):
        unpack(tmp_path / name, tmp_path / "top")
    assert tree(tmp_path) == {name: content}


def test_a_full_disk_while_unpacking_leaves_nothing(tmp_path):
    write_files(tmp_path, {"top.tar.gz": tar_of({"top/a": b"a", "top/b": BODY})})
    with full_disk(100_000), one_line(tmp_path / "top", "File too large"):
        unpack(tmp_path / "top.tar.gz", tmp_path / "top")
    assert list(tree(tmp_path)) == ["top.tar.gz"]


def test_what_a_killed_unpacking_left_is_cleared(tmp_path):
    write_files(tmp_path / "top.part", {"stale": b"x"})
    write_files(tmp_path, {"top.zip": zip_of({"top/": b"", "top/in/a": b"a"})})
    unpack(tmp_path / "top.zip", tmp_path / "top")
    assert sorted(tree(tmp_path)) == ["top.zip", "top/in/a"]


def test_no_folder_that_was_kept_aside_is_replaced(tmp_path):
    write_files(tmp_path, {"top.zip": zip_of({"top/a": b"a"})})
    for mine in (b"first", b"second"):
        write_files(tmp_path / "top", {"a": mine})
        unpack(tmp_path / "top.zip", tmp_path / "top")
    kept = {"top.bad/a": b"first", "top.1.bad/a": b"second", "top/a": b"a"}
    assert kept.items() < tree(tmp_path).items()
