"""The repository that every sharing test clones, built once a session by `dvc repro`."""

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import sharing_lab as lab
import yaml

from pipeline.plan import Record, Run, Snapshots, Table, TransferSet, load_plan
from pipeline.plan.state import closure
from pipeline.store.manifest import MANIFEST, parse, winners, without_orphans

PAPER = "results/aute/table2.csv"


def shrink(folder, rows=("standard", "pgd_at", "wa")):
    """Two tables, three rows, seconds of training; stages for both."""
    params = lab.read_params(folder)
    demo, table = params["scales"]["demo"], params["tables"]["table1"]
    demo["recipe"] = {"epochs": 2, "batch_size": 32, "validate_every": 0, "train_images": 64}
    demo["images"] = 20
    demo["attacks"] = {"pgd10": {"steps": 1}, "mim50": {"steps": 10}, "train_pgd10": {"steps": 1}}
    demo["tables"], demo["figures"], params["figures"] = {}, {}, {}
    params |= {"scale": "demo", "scales": {"paper": {}, "demo": demo}}
    table |= {"rows": list(rows), "reference": "none", "members": [1], "suites": ["unified"]}
    table |= {"columns": ["clean", "mim50", "pgd10", "members"]}
    params["suites"]["unified"] = {"attacks": ["mim50", "pgd10"]}
    params["tables"] = {"table1": table, "aute_table2": {**table, "rows": ["standard"]}}
    lab.write_params(folder, params)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages["stages"]["paper"]["foreach"] = ["aute"]
    del stages["stages"]["beyond"], stages["stages"]["picture"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False, width=1000))


@cache
def world():
    """A folder that everybody may read, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sharing-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lab.preload()
    return folder


def copied(name, change):
    """A repository with this checkout's files after a change, and nothing computed."""
    folder = world() / name
    folder.mkdir()
    lab.copy_repository(folder)
    change(folder)
    lab.git(folder, "add", "-A")
    lab.commit(folder, "start")
    return folder


@cache
def bare():
    """The tiny repository with nothing computed."""
    return copied("bare", shrink)


def empty(name):
    """A clone of the tiny repository with nothing computed."""
    folder = world() / name
    lab.git(world(), "clone", "-q", str(bare()), str(folder))
    lab.identify(folder)
    lab.warm(folder)
    return folder


def once(name, make):
    """A folder that `make` fills, in one of the processes that share out the tests; copied."""
    own = world() / name
    if "TESTS_SHARED" not in os.environ:
        make(own)
        return own

    common = Path(os.environ["TESTS_SHARED"]) / f"sharing-{name}"
    with common.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if common.exists():
            shutil.copytree(common, own, symlinks=True)
        else:
            make(own)
            shutil.copytree(own, common, symlinks=True)
    return own


@cache
def paper_alone():
    """A repository where `dvc repro` built one paper, and nothing else."""

    def make(folder):
        lab.run(empty(folder.name), "dvc", "repro", "paper@aute").ok()

    return once("paper", make)


@cache
def origin():
    """Everything computed by `dvc repro`, recorded, committed and pushed to a local remote."""

    def make(folder):
        shutil.copytree(paper_alone(), folder, symlinks=True)
        lab.run(folder, "dvc", "repro").ok()
        lab.run(folder, "record").ok()

    folder = once("origin", make)
    lab.run(folder, "dvc", "remote", "add", "--default", "share", str(world() / "share")).ok()
    lab.git(folder, "add", "-A")
    lab.commit(folder, "results")
    lab.run(folder, "dvc", "push").ok()
    return folder


def fresh(name, **options):
    """A clone of the origin under this name."""
    return lab.clone(origin(), world() / name, **options)


def build(clone):
    """Make what the clone's tables need, stage by stage, each in a fork that has torch already."""
    here = Path.cwd()
    os.chdir(clone)
    try:
        plan = load_plan()
        needed = closure(plan, plan.tables.values(), {}).compute
        for artifact in needed.values():
            lab.run(clone, *_command(plan, artifact)).ok()
    finally:
        os.chdir(here)
    return plan


def _command(plan, artifact):
    if isinstance(artifact, Table):
        return "tabulate", str(artifact.path)
    if isinstance(artifact, Record):
        return "evaluate", artifact.id
    if isinstance(artifact, TransferSet):
        return "transfer", artifact.id
    if isinstance(artifact, Snapshots):
        return "train", artifact.run.id, "--snapshots-from", str(artifact.first)
    if isinstance(artifact, Run):
        return artifact.stage, artifact.id
    return "prepare", artifact.name


def listing(clone, pool="results/runs"):
    """First folders of a pool's listing, as DVC reads it."""
    text = lab.shell(clone, sys.executable, "-m", "dvc", "ls", ".", pool, "--dvc-only").text
    return set(text.split())


def manifest(clone):
    """The manifest that counts in a clone."""
    text = (clone / MANIFEST).read_text()
    return without_orphans(winners(parse(text)))
