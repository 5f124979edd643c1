"""Pools, leases and a job's part of the plan, damaged in every way of a list."""

import json
import random
import sqlite3
from contextlib import chdir
from pathlib import Path

import damage_lab as damage
import merge_lab as lab
import pytest

from pipeline.errors import UserError
from pipeline.plan import frozen, load_part
from pipeline.share import pools, record
from pipeline.store import lease, manifest

pytestmark = pytest.mark.sharing
OUT = "outs:\n- md5: {md5}\n  path: {path}\n"
POOL = {
    "another listing": lambda _: OUT.format(md5="0" * 32 + ".dir", path="runs").encode(),
    "a listing elsewhere": lambda _: OUT.format(md5="../../x", path="runs").encode(),
    "another pool": lambda _: OUT.format(md5="0" * 32 + ".dir", path="../victim").encode(),
    "two outs": lambda content: content + content.partition(b"outs:\n")[2],
    "no outs": lambda _: b"outs: []\n",
    "aliases": lambda _: b"a: &a [1]\nouts: [*a, *a]\n",
}
LISTING = {
    "no path": damage.as_json(lambda rows: [{"md5": row["md5"]} for row in rows]),
    "no sum": damage.as_json(lambda rows: [{"relpath": row["relpath"]} for row in rows]),
    "a path elsewhere": damage.as_json(lambda rows: [{**row, "relpath": "../x"} for row in rows]),
    "a sum of a number": damage.as_json(lambda rows: [{**row, "md5": 5} for row in rows]),
    "fewer": lambda _: b"[]",
}


@pytest.fixture(scope="module")
def recorded():
    """A repository whose `ours` has recorded a run and its records."""
    folder = lab.branches("damaged", "empty", "recorded", "none")
    with chdir(folder):
        yield folder


@pytest.mark.parametrize("how", [*damage.BLIND, *POOL])
def test_a_damaged_file_of_a_pool_is_refused_or_lists_the_same(recorded, how):
    harm = {**damage.BLIND, **POOL}[how]
    file = Path("results/runs.dvc")
    check(file, harm, file.as_posix())


@pytest.mark.parametrize("how", [*damage.BLIND, *LISTING])
def test_a_damaged_listing_in_the_cache_is_refused_or_lists_the_same(recorded, how):
    hash = pools.listed_in(Path("results/runs.dvc"))
    (file,) = Path(".dvc/cache/files/md5").glob(f"{hash[:2]}/{hash[2:]}")
    file.chmod(0o644)
    harm = {**damage.BLIND, **LISTING}[how]
    check(file, harm, file.parent.name, "results/runs.dvc")


def check(file, harm, *names):
    """What `make record` asks of pools first; the file is put back."""
    whole, before = file.read_bytes(), entries()
    file.write_bytes(harm(whole))
    try:
        record.check_pools(manifest.read())
        assert entries() == before
    except UserError as error:
        text = str(error)
        assert len(text.splitlines()) == 1 and len(text) < 500, text
        assert any(name in text for name in names), text
    finally:
        file.write_bytes(whole)


def entries():
    pool = Path("results/runs")
    return pools.Trees().load(pool, pools.listed_in(pools.pool_file(pool)))


REMOTES = (("ssh://nowhere/x", "requires 'dvc-ssh'"), ("s3://nowhere/x", "locate credentials"))


@pytest.mark.parametrize(("url", "said"), REMOTES)
def test_a_remote_without_its_package_or_credentials_is_one_line(url, said, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with chdir(lab.repository("unreached")):
        Path(".dvc/config.local").write_text(f"[core]\nremote = r\n['remote \"r\"']\nurl = {url}\n")
        with pytest.raises(UserError, match=f"^results/runs.dvc: its listing .*{said}.*dvc push"):
            pools.Trees().load(Path("results/runs"), "0" * 32 + ".dir")


def test_gits_advice_is_no_complaint():
    said = "The following paths are ignored by one of your .gitignore files:\nx.pdf\nhint: Use -f\n"
    assert "hint" not in pools._find_complaint(said)


HOLDER = {"host": "far", "pid": 1, "start": "1", "place": "another boot", "job": ""}
HOLDERS = [
    *({**HOLDER, key: value} for key in HOLDER for value in (None, [], {}, "x", 5, -1)),
    *({k: v for k, v in HOLDER.items() if k != key} for key in HOLDER),
    {**HOLDER, "pid": "../../etc/passwd", "place": lease._place()},
]


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_damaged_lease_is_taken_over_or_left_in_one_line(tmp_path, monkeypatch, is_patient):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lease, "STALE", 0.0)  # nobody beats here
    whole = json.dumps(HOLDER).encode()
    contents = [harm(whole) for harm in damage.BLIND.values()]
    for number, content in enumerate([*contents, *(json.dumps(h).encode() for h in HOLDERS)]):
        name = f"x{number}"
        folder = lease.ROOT / name
        folder.mkdir(parents=True)
        (folder / "1").write_bytes(content)
        with lease.hold(name, patient=is_patient):
            assert (folder / "2").exists(), content
        (folder / "2").write_bytes(content)
        seen = lease.Lease(name)._look()
        assert len(lease.Lease(name)._taken(seen).args[0].splitlines()) == 1, content


@pytest.fixture
def laid(tmp_path, monkeypatch):
    """A frozen copy with the artifacts of a plan beside it."""
    with chdir(damage.built()):
        plan = damage.project().plan
        copy = frozen.STORE / "copy"
        copy.mkdir(parents=True, exist_ok=True)
        (copy / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
        plan.lay(copy)
        monkeypatch.setenv(frozen.VARIABLE, str(copy))
        yield plan, copy / "plan.sqlite"


def test_a_jobs_part_of_the_plan_is_what_was_laid_down_or_read_anew(laid):
    plan, file = laid
    run, made = damage.project().average, damage.project().judged
    whole, draw = file.read_bytes(), random.Random(0)
    # each that is seen reads the whole plan
    harms = [*damage.BLIND.values(), *(damage.flip(draw.random()) for _ in range(6))]
    anew = 0
    for harm in harms:
        file.write_bytes(harm(whole))
        part = load_part(run.id, made.id)
        assert part.run(run.id) == run and part.run(run.parents[0]) == plan.run(run.parents[0])
        assert part.record(made.id) == made and part.set(made.sets[0]) == damage.project().set
        anew += len(part.tables) > 0
    assert 0 < anew < len(harms)


def test_a_row_that_another_wrote_or_that_is_lost_is_no_part_of_a_plan(laid):
    plan, file = laid
    training = damage.project().training
    for change in (
        "UPDATE artifacts SET needs = '[]' WHERE id = ?",
        "DELETE FROM artifacts WHERE id = ?",
    ):
        plan.lay(file.parent)
        with sqlite3.connect(file) as database:
            assert database.execute(change, (training.id,)).rowcount == 1
        database.close()
        part = load_part(damage.project().average.id)
        assert len(part.tables) > 0 and part.run(training.id) == training
