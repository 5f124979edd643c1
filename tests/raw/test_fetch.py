import io
import sys

import pytest
from official import (
    full_disk,
    md5,
    one_line,
    serving,
    sha256,
    tree,
)

from pipeline.errors import UserError
from pipeline.raw.fetch import fetch, verify

BODY = bytes(range(256)) * 4000  # about four reads
CHECKSUMS = {"sha256": sha256(BODY), "md5": md5(BODY)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        server.files = {"/file.bin": BODY}
        yield server


def test_a_file_is_fetched_whole(server, tmp_path):
    fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert tree(tmp_path) == {"file.bin": BODY}


def test_a_partial_file_goes_on_from_its_last_byte(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:5000])
    fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert server.asked == [("/file.bin", "bytes=5000-")]
    assert tree(tmp_path) == {"file.bin": BODY}


def test_a_complete_partial_file_needs_no_server(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert server.asked == []
    assert tree(tmp_path) == {"file.bin": BODY}


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(BODY[:5000])
    fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert tree(tmp_path) == {"file.bin": BODY}


def test_a_partial_file_that_is_too_long_starts_anew(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert tree(tmp_path) == {"file.bin": BODY}


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts = [300_000, 400_000]
    fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    offsets = [asked for _, asked in server.asked]
    assert offsets == [None, "bytes=300000-", "bytes=700000-"]
    assert tree(tmp_path) == {"file.bin": BODY}


def test_cuts_without_progress_end_in_one_line_and_keep_what_arrived(server, tmp_path):
    server.ranges, server.cuts = False, [300_000, 300_000]
    target = tmp_path / "file.bin"
    with one_line(target, "cut after 300000 of 1024000 bytes", "mirror", "run the same command"):
        fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    assert tree(tmp_path) == {"file.bin.part": BODY[:300_000]}
    server.ranges = True
    fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    assert server.asked[-1] == ("/file.bin", "bytes=300000-")
    assert tree(tmp_path) == {"file.bin": BODY}


def test_no_connection_is_one_line_that_names_the_mirror(tmp_path):
    with serving() as gone:
        url = f"{gone.url}/file.bin"
    (tmp_path / "file.bin.part").write_bytes(BODY[:5000])
    with one_line(tmp_path / "file.bin", url, "refused", "ROBUST_MIRROR"):
        fetch([url], tmp_path / "file.bin", CHECKSUMS)
    assert tree(tmp_path) == {"file.bin.part": BODY[:5000]}


def test_the_second_address_serves_when_the_first_does_not(server, tmp_path):
    fetch([f"{server.url}/gone", f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert tree(tmp_path) == {"file.bin": BODY}


def test_a_wrong_checksum_names_both_and_keeps_the_file_aside(server, tmp_path):
    page = b"<html>moved</html>"
    server.files["/file.bin"] = page
    target = tmp_path / "file.bin"
    with one_line(target, CHECKSUMS["sha256"], sha256(page), "file.bin.bad", "again"):
        fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    assert tree(tmp_path) == {"file.bin.bad": page}
    server.files["/file.bin"] = BODY
    fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    assert tree(tmp_path) == {"file.bin.bad": page, "file.bin": BODY}


def test_a_full_disk_is_one_line_and_the_rest_follows_later(server, tmp_path):
    target = tmp_path / "file.bin"
    with full_disk(600_000), one_line("file.bin.part", "File too large", "free space"):
        fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    kept = (tmp_path / "file.bin.part").stat().st_size
    assert 0 < kept <= 600_000
    fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    assert server.asked[-1] == ("/file.bin", f"bytes={kept}-")
    assert tree(tmp_path) == {"file.bin": BODY}


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_on_a_terminal_and_quiet_elsewhere(server, tmp_path, monkeypatch):
    for screen, lines in ((Screen(), 1), (io.StringIO(), 0)):
        monkeypatch.setattr(sys, "stderr", screen)
        fetch([f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
        assert screen.getvalue().count("\n") == screen.getvalue().count("1.02M/1.02M") == lines


def test_a_mirror_with_wrong_bytes_does_not_block_the_next(server, tmp_path):
    """A portal that answers everything with a page: the second address has the file."""
    server.files["/portal/file.bin"] = b"<html>please log in</html>"
    urls = [f"{server.url}/portal/file.bin", f"{server.url}/file.bin"]
    fetch(urls, tmp_path / "file.bin", CHECKSUMS)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    (tmp_path / "file.bin").unlink()
    with one_line(tmp_path / "file.bin", "sha256 expected", "kept as file.bin.bad"):
        fetch(urls[:1], tmp_path / "file.bin", CHECKSUMS)


def test_who_sends_more_than_the_files_size_is_left(server, tmp_path):
    server.files["/endless.bin"] = BODY * 20
    with one_line(tmp_path / "file.bin", f"sends more than the file's {len(BODY)} bytes"):
        fetch([f"{server.url}/endless.bin"], tmp_path / "file.bin", CHECKSUMS, len(BODY))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(BODY)


@pytest.mark.parametrize("name", ["file.bin", "none.bin"])
def test_credentials_of_a_mirror_are_used_and_never_said(server, tmp_path, name):
    url = server.url.replace("://", "://user:sesame@") + f"/{name}?token=sesame"
    server.files["/file.bin?token=sesame"] = BODY
    if name == "file.bin":
        return fetch([url], tmp_path / "file.bin", CHECKSUMS)
    with pytest.raises(UserError) as raised:
        fetch([url], tmp_path / "file.bin", CHECKSUMS)
    assert "sesame" not in str(raised.value) and f"{server.url}/none.bin: 404" in str(raised.value)


def test_a_file_behind_a_link_stays_where_it_is(tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "group/file.bin").write_bytes(b"other")
    (tmp_path / "raw").symlink_to(tmp_path / "group")
    with one_line(tmp_path / "raw/file.bin", "sha256 expected", "put the right file there"):
        verify(tmp_path / "raw/file.bin", CHECKSUMS)
    assert tree(tmp_path / "group") == {"file.bin": b"other"}


@pytest.mark.parametrize("address", ["http://[bad/x", "http://user:sesame@[bad/x"])
def test_an_address_that_is_none_is_one_line_without_it(tmp_path, address):
    with pytest.raises(UserError, match="an address that cannot be read") as raised:
        fetch([address], tmp_path / "file.bin", CHECKSUMS)
    assert (
        "\n" not in str(raised.value) and "sesame" not in str(raised.value) and tree(tmp_path) == {}
    )


def test_an_address_that_is_none_does_not_block_the_next(server, tmp_path):
    fetch(["http://[bad/x", f"{server.url}/file.bin"], tmp_path / "file.bin", CHECKSUMS)
    assert tree(tmp_path) == {"file.bin": BODY}


def test_nothing_that_was_kept_aside_is_replaced_and_it_serves_again(server, tmp_path):
    """The advice followed: a corrected file aside, the official one fetched, its sum stated."""
    target, mine = tmp_path / "file.bin", {"sha256": sha256(b"corrected")}
    target.write_bytes(b"corrected")
    with one_line(target, "kept as file.bin.bad; run the same command again"):
        verify(target, CHECKSUMS)
    fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    verify(target, mine)
    assert tree(tmp_path) == {"file.bin": b"corrected", "file.bin.1.bad": BODY}
    verify(target, CHECKSUMS)  # and back
    assert tree(tmp_path) == {"file.bin": BODY, "file.bin.bad": b"corrected"}

    (tmp_path / "file.bin").rename(tmp_path / "file.bin.7.bad")
    asked = len(server.asked)
    fetch([f"{server.url}/file.bin"], target, CHECKSUMS)
    assert len(server.asked) == asked

    for page in (b"moved", b"moved", b"gone"):
        target.write_bytes(page)
        with one_line(target, "kept as file.bin."):
            verify(target, {"sha256": "0" * 64})
    kept = {"file.bin.bad": b"corrected", "file.bin.1.bad": b"moved", "file.bin.2.bad": b"gone"}
    assert tree(tmp_path) == kept


def test_what_was_fetched_wrong_below_a_link_is_kept_as_the_line_says(server, tmp_path):
    """`data` may be a link to a larger disk: what arrived there is ours."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    server.files["/file.bin"] = b"corrected"
    with one_line("found", "; kept as file.bin.bad)"):
        fetch([f"{server.url}/file.bin"], tmp_path / "data/file.bin", CHECKSUMS)
    assert tree(tmp_path / "scratch") == {"file.bin.bad": b"corrected"}
