"""A full disk, a quota, a folder that may only be read: one line, the old files, and on it goes."""

import errno
import os
import subprocess

import pytest
from projects import Project, job_params

from pipeline.errors import UserError
from pipeline.store.files import write_atomic

pytestmark = pytest.mark.crash


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of some bytes on a folder of a project."""
    mounted = []

    def mount(folder, options, kind="tmpfs"):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", kind, "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def results(project):
    return {path: sum for path, sum in project.results().items() if not path.endswith("/.gitkeep")}


def test_a_disk_that_fills_under_the_workflow_and_is_freed_changes_no_byte(tmp_path, small_disk):
    params = job_params(["pgd_at_single"], epochs=1)
    undisturbed = Project(tmp_path / "undisturbed", params)
    assert undisturbed.snakemake("-q").returncode == 0
    project = Project(tmp_path / "full", params)
    small_disk(project.folder / "results", "size=24k")
    full = project.snakemake()
    assert full.returncode == 1
    lines = [line for line in full.stdout.splitlines() if "error: results/" in line]
    assert lines and all("cannot be written (No space left on device)" in line for line in lines)
    assert "Traceback" not in full.stdout, full.stdout[-3000:]
    assert not list(project.folder.rglob("*.tmp"))
    remount(project.folder / "results", "size=10m,ro")
    read_only = project.snakemake()
    assert read_only.returncode == 1 and "Traceback" not in read_only.stdout
    assert "Read-only file system" in read_only.stdout, read_only.stdout[-3000:]
    remount(project.folder / "results", "rw")
    assert project.snakemake("-q").returncode == 0
    assert results(project) == results(undisturbed)


def test_a_quota_that_a_file_server_tells_late_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    write_atomic(path, b"old")

    def fsync(_):  # NFS keeps what it is given, and says only then that it was too much
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"weights: cannot be written \(Disk quota exceeded\)"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
