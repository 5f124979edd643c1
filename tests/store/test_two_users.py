"""Two people in a group's folder: the second goes on where the first was, or reads one line."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pytest
from projects import Project, job_params

from pipeline.share import writer

FIRST, SECOND, GROUP = 47001, 47002, 47000
TABLE = "results/table1.csv"


def is_open(path):
    """Whether everybody may execute a file, on all the way to it."""
    resolved = Path(path).resolve()
    return all(p.stat().st_mode & stat.S_IXOTH for p in (resolved, *resolved.parents))


def interpreter():
    """A Python of this version that other users may run; this one often lies in root's home."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if Path(found).exists() and is_open(found):
            return found
    return None


def hindrance():
    if os.getuid() != 0:
        return "only root can be two people"
    if interpreter() is None or not is_open(Path(numpy.__file__).parent):
        return "no Python that other users may run"
    return ""


pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(bool(hindrance()), reason=hindrance() or "available"),
]


class Group:
    """A project in a folder of a group, and commands by either member."""

    def __init__(self, folder):
        os.chmod(folder, 0o755)
        self.folder = folder / "project"
        self.folder.mkdir()
        Project(self.folder, job_params(["pgd_at_single"], epochs=1), prepared=False)
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "python").symlink_to(interpreter())
        for user in (FIRST, SECOND):
            (folder / str(user)).mkdir()
            os.chown(folder / str(user), user, GROUP)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, FIRST, GROUP)
            os.chmod(path, 0o2775 if path.is_dir() else 0o664)

    def run(self, user, *command, umask=0o002):
        packages = str(Path(numpy.__file__).parents[1])
        home = str(self.folder.parent / str(user))
        path = os.pathsep.join([str(self.bin), "/usr/bin", "/bin"])
        env = {"PATH": path, "PYTHONPATH": packages, "HOME": home, "OMP_NUM_THREADS": "1"}
        env |= {"USER": f"user{user}", "PYTHONDONTWRITEBYTECODE": "1"}
        options = {"user": user, "group": GROUP, "extra_groups": [], "umask": umask}
        return subprocess.run(
            ["python", "-m", *command],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            executable=str(self.bin / "python"),
            **options,
        )

    def snakemake(self, user, *words, **options):
        return self.run(user, "snakemake", "-c1", TABLE, *words, **options)


@pytest.fixture
def group():
    """Not below pytest's own folder, which is its user's alone."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Group(Path(folder))


def one_line(done, *words):
    """It failed, and said why in a line that has these words."""
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout[-3000:]
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    assert lines and all(word in lines[-1] for word in words), done.stdout[-3000:]


def test_the_second_goes_on_where_the_first_was(group):
    first = group.snakemake(FIRST)
    assert first.returncode == 0, first.stdout[-3000:]
    again = group.snakemake(SECOND, "-n")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout, again.stdout[-3000:]

    params = job_params(["pgd_at_single"], epochs=1)
    params["tables"]["table1"]["title"] = "Another"
    writer.write(group.folder, params)
    dry = group.snakemake(SECOND, "-n")
    assert dry.returncode == 0 and "tabulate" in dry.stdout, dry.stdout[-3000:]
    assert "Traceback" not in dry.stdout
    built = group.snakemake(SECOND)
    assert built.returncode == 0, built.stdout[-3000:]
    assert "# Another" in (group.folder / TABLE).with_suffix(".md").read_text()
    for user in (FIRST, SECOND):
        assert "Nothing to be done" in group.snakemake(user, "-n").stdout


def test_a_data_file_with_another_sum_is_said_and_stays_what_it_was(group):
    raw = group.folder / "data/raw/digits/digits.csv.gz"
    assert group.run(FIRST, "pipeline.download", "digits").returncode == 0
    whole = raw.read_bytes()
    raw.write_bytes(whole[:-1])
    raw.parent.joinpath("verified.json").unlink()
    os.chmod(raw.parent, 0o755)  # the second may read there, and no more
    one_line(group.run(SECOND, "pipeline.download", "digits"), "digits.csv.gz", "sha256 expected")
    assert raw.read_bytes() == whole[:-1] and len(list(raw.parent.glob("*.bad"))) == 0
    os.chmod(raw.parent, 0o2775)
    one_line(group.run(SECOND, "pipeline.download", "digits"), "kept as digits.csv.gz.bad")
    assert raw.with_name("digits.csv.gz.bad").read_bytes() == whole[:-1]
    assert group.run(SECOND, "pipeline.download", "digits").returncode == 0
    assert raw.read_bytes() == whole


@pytest.mark.parametrize("part", ["results", "work", "logs", "data", ".snakemake"])
def test_a_folder_without_the_groups_rights_is_one_line(group, part):
    folder = group.folder / part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chown(folder, FIRST, GROUP)
    os.chmod(folder, 0o755)
    for words in (("-n",), ()):
        done = group.snakemake(SECOND, *words)
        if words and done.returncode == 0:
            assert "Traceback" not in done.stdout, done.stdout[-3000:]
        else:
            one_line(done, part)
