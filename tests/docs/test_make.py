"""What the Makefile does in a fresh clone, in one without logs, and in one that was moved."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from projects import ROOT

HELP = re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile and its pins."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    return tmp_path


def make(folder, *words):
    """What make says there."""
    words = ["make", f"PYTHON={sys.executable}", *words]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("target", [name for name in HELP if name != "help"])
def test_every_target_installs_what_it_runs(clone, target):
    done = make(clone, "-n", target)
    assert done.returncode == 0 and "pip install" in done.stdout


def test_a_page_that_is_up_to_date_is_told_without_its_log(clone):
    snakemake = clone / ".venv/bin/snakemake"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text("#!/bin/sh\n")
    snakemake.chmod(0o755)
    done = make(clone, "-o", "setup", "report")
    assert done.returncode == 0 and "results/report.html: " in done.stdout


@pytest.mark.parametrize(("folder", "target"), [(".venv", "setup"), (".venv-docs", "docs")])
def test_an_environment_that_was_moved_is_made_anew(clone, folder, target):
    stamp, python = clone / folder / ".installed", clone / folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    stamp.write_text(f"{clone / folder}\n")
    assert "-m venv" not in make(clone, "-n", target).stdout
    stamp.write_text("/elsewhere\n")
    assert f"-m venv --clear {folder}" in make(clone, "-n", target).stdout

    stamp.write_text(f"{clone / folder}\n")
    python.unlink()
    python.symlink_to("/gone/python3")  # the machine has another interpreter now
    assert f"-m venv --clear {folder}" in make(clone, "-n", target).stdout


def test_an_old_package_is_laid_over_whole_or_not_at_all(tmp_path):
    """Killed while pip moved its files, the same command installs it again."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/floors", tmp_path / ".ci")
    fake = tmp_path / "bin/python"
    fake.parent.mkdir()
    words = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    for end, ours in (("exit 1", 0), ("exit 0", 3)):
        fake.write_text(f'#!/bin/sh\n[ "$2" = pytest ] && exit 0\nmkdir "$6"\n{end}\n')
        fake.chmod(0o755)
        subprocess.run([tmp_path / ".ci/floors"], env=words, capture_output=True)
        folders = {p.name for p in (tmp_path / ".floors").iterdir() if p.is_dir()}
        assert len({name for name in folders if not name.endswith(".part")}) == ours, folders
