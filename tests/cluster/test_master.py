"""What a master sets up before its first job."""

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.settings.types import MaxJobsPerTimespan

from pipeline.cluster import master
from pipeline.errors import UserError


@pytest.mark.parametrize(("asked", "lifted"), [(None, True), ("100/1s", True), ("5/1m", False)])
def test_snakemakes_own_limit_on_starts_is_lifted_and_a_users_stays(asked, lifted):
    default = get_argument_parser().get_default("max_jobs_per_timespan")
    scheduler = SimpleNamespace(job_rate_limiter="a limit")
    master.look_once_a_job(scheduler, MaxJobsPerTimespan.parse_choice(asked or default))
    assert (scheduler.job_rate_limiter is None) == lifted


def test_a_look_whether_a_folder_is_writable_shows_no_file(tmp_path, monkeypatch):
    """A master killed there left an empty `..writable.*.tmp` among the results for a day."""
    seen = []

    @contextmanager
    def look(dir):
        with TemporaryFile(dir=dir) as probe:
            seen.append((os.fstat(probe.fileno()).st_nlink, [*Path(dir).iterdir()]))
            yield probe

    monkeypatch.setattr(master, "TemporaryFile", look)
    master._check_writable(tmp_path / "results")
    assert seen == [(0, [])]


def test_only_jobs_of_a_master_are_its_orphans(tmp_path, monkeypatch):
    """`sbatch robust_run.sh`, which runs the master, cancelled itself."""
    monkeypatch.chdir(tmp_path)
    names = {"1": "robust_3f2a1b0c-0000-4111-8222-0123456789ab", "2": "robust_run.sh"}
    lines = "".join(f"{id}|{name}|{tmp_path}\n" for id, name in names.items())
    monkeypatch.setattr(master, "_ask_slurm", lambda *_: lines)
    monkeypatch.setattr(master.shutil, "which", lambda _: "squeue")
    assert master._list_orphans() == ["1"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="results: cannot be written"):
        master._check_writable(tmp_path / "results")
