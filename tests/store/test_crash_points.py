"""Killed before and after every rename of every job: the same command ends in the same bytes.

A file gets its name by a rename, so between two of them nothing changes that anybody reads.
"""

import os
import shutil
from contextlib import chdir
from pathlib import Path

import damage_lab as damage
import pytest
import sharing_lab as lab
import sharing_origin as home
import tiny

from pipeline import download
from pipeline.share import pools, record
from pipeline.store import manifest

pytestmark = pytest.mark.crash
MANY = "CRASH_POINTS" in os.environ  # `make crash` asks for all
STEP = 1 if MANY else 5  # every point, or a few that change with no run
DONE, KILLED, FAULT = 0, 9, 1


def strike(number, job):
    """Do a job in a process that dies at point `number`; whether it lived to the end."""
    pid = os.fork()
    if pid == 0:
        code = FAULT
        try:
            die_at(number)
            job()
            code = DONE
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (DONE, KILLED), f"point {number}: failed, not killed"
    return code == DONE


def die_at(number):
    """End this process there, without a word: before or after a rename, before a git or DVC."""
    points = iter(range(1, 10_000))

    def point():
        if next(points) == number:
            os._exit(KILLED)

    def before_and_after(rename):
        def call(*args, **options):
            point()
            rename(*args, **options)
            point()

        return call

    def before(call):
        def called(arguments):
            point()
            return call(arguments)

        return called

    os.replace, os.rename = before_and_after(os.replace), before_and_after(os.rename)
    pools.git, pools.dvc = before(pools.git), before(pools.dvc)


def every_point(job, folder, prepare, check, step=STEP):
    """Kill a job at points in turn, do it again to the end, check; returns the last's number."""
    number = 1
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder)
        with chdir(folder):
            damage.forget()
            lived = strike(number, job)
            damage.forget()
            check(number)
        if lived:
            return number - 1
        number += step


def stale(project):
    """A table and a figure of an older plan, as every file of them says."""
    for target in (project.table, project.figure):
        tiny.target_of(target, "0" * 10)


EARLIER = {  # job -> what of a built project it finds
    "prepare": lambda p: None,
    "train": lambda p: shutil.rmtree(p.training.work),
    "average": lambda p: None,
    "craft": lambda p: None,
    "evaluate": lambda p: shutil.rmtree(Path("work/records")),
    "tabulate": stale,
    "figure": stale,
}
GONE = {
    "prepare": lambda p: p.dataset.folder,
    "train": lambda p: p.training.folder,
    "average": lambda p: p.average.folder,
    "craft": lambda p: p.set.path,
    "evaluate": lambda p: p.record.path,
}


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("job", EARLIER)
def test_a_job_killed_at_any_point_ends_in_the_same_bytes(job, tmp_path):
    project, make = damage.project(), getattr(damage, f"make_{job}")
    with chdir(damage.built()):
        expected = damage.sums_of(damage.outputs_of(project, job))

    def prepare(folder):
        shutil.copytree(damage.built(), folder)
        with chdir(folder):
            EARLIER[job](project)
            if job in GONE:
                remove(GONE[job](project))

    def check(number):
        target = {"tabulate": project.table, "figure": project.figure}.get(job)
        if target is None or not target.is_here():
            make(project)
        found = damage.sums_of(damage.outputs_of(project, job))
        assert found == expected, f"point {number}"
        assert target is None or target.is_here()
        assert not list(Path("results").rglob("*.part"))

    count = every_point(lambda: make(project), tmp_path / "copy", prepare, check)
    print(f"{job}: {count} points")
    assert count >= 3


def test_a_download_killed_at_any_point_ends_in_the_same_bytes(tmp_path):
    raw = damage.project().dataset.raw
    with chdir(damage.built()):
        files = [raw / "digits.csv.gz", raw / "verified.json"]
        expected = damage.sums_of(files)

    def prepare(folder):
        shutil.copytree(damage.built(), folder)
        shutil.rmtree(folder / raw)

    def check(number):
        download.main(["digits"])
        assert damage.sums_of(files) == expected, f"point {number}"

    count = every_point(lambda: download.main(["digits"]), tmp_path / "copy", prepare, check)
    print(f"download: {count} points")


def repository():
    """A repository with the built project, nothing recorded."""
    folder = home.world() / "points"
    if folder.exists():
        return folder

    def change(folder):
        shutil.copyfile(damage.built() / "params.yaml", folder / "params.yaml")
        shutil.rmtree(folder / "papers")
        stages = (folder / "dvc.yaml").read_text()
        (folder / "dvc.yaml").write_text(stages.replace("foreach: [radii]", "foreach: [margins]"))

    home.copied("points", change)
    for name in ("results", "data", "work"):
        shutil.copytree(damage.built() / name, folder / name, dirs_exist_ok=True)
    return folder


def known(folder):
    """What a repository remembers: sums by artifact, and what is staged."""
    with chdir(folder):
        damage.forget()
        listed = {name: line.sha256 for name, line in manifest.read().items()}
        trees, pool_files = pools.Trees(), sorted(Path().glob("*/*.dvc"))
        found = {}
        for file in pool_files:
            pool = file.with_suffix("")
            found[pool] = trees.load(pool, pools.tree_hash(file.read_text(), file))
        return listed, found, lab.git(folder, "diff", "--cached", "--name-only").text


def test_a_record_killed_at_any_point_remembers_the_same(tmp_path):
    project = damage.project()

    def job():
        return record.record(project.plan)

    def prepare(folder):
        shutil.copytree(repository(), folder, symlinks=True)

    prepare(tmp_path / "whole")
    with chdir(tmp_path / "whole"):
        damage.forget()
        assert job() == []
    expected = known(tmp_path / "whole")
    assert expected[0]

    def check(number):
        with chdir(tmp_path / "copy"):
            assert job() == [], f"point {number}"
        assert known(tmp_path / "copy") == expected, f"point {number}"

    step = 1 if MANY else 19  # each takes seconds
    count = every_point(job, tmp_path / "copy", prepare, check, step)
    print(f"record: {count} points")
    assert count >= 19
