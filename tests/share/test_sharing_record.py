"""`make record` at any time, by anyone, killed at any moment: nothing is lost, nothing is false."""

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sharing_lab as lab
import sharing_origin as home
import torch
from projects import small

from pipeline.errors import UserError
from pipeline.plan import load_plan
from pipeline.raw.receipt import OFFICIAL, receipt_row, write_receipt
from pipeline.share import finished, writer
from pipeline.share.record import Recorder
from pipeline.store import manifest
from pipeline.store.files import safetensors
from pipeline.store.sums import write_together

pytestmark = pytest.mark.sharing
TARGETS = (lab.TABLE, home.PAPER)
RECORDERS = 12


def unrecorded(name):
    """A repository whose artifacts lie on disk and are in no pool."""
    folder = home.empty(name)
    for part in ("results/runs", "results/records", "data/digits", "data/raw"):
        shutil.copytree(home.origin() / part, folder / part)
    return folder


def recorded(folder):
    return set(home.manifest(folder))


def is_whole(folder):
    """Pools list what the manifest lists, and the cache has every byte of it."""
    for pool in ("results/runs", "results/records"):
        found = {n.split("/")[2] for n in recorded(folder) if n.startswith(f"{pool}/")}
        assert home.listing(folder, pool) == found
    for part in ("results/runs", "results/records", "data/digits", "data/raw"):
        shutil.rmtree(folder / part)
    lab.run(folder, "dvc", "checkout").ok()
    assert ".dvc:" not in lab.run(folder, "dvc", "status").ok()
    lab.run(folder, "record").ok()  # hashes all of it again


def test_twelve_recorders_at_once_lose_nothing():
    folder = unrecorded("crowd")
    waiting = folder / "waiting"
    shutil.move(folder / "results/runs", waiting)
    (folder / "results/runs").mkdir()
    runs = sorted(waiting.iterdir())

    def recorder(number):
        if number < len(runs):
            os.rename(runs[number], folder / "results/runs" / runs[number].name)
        return lab.run(folder, "record")

    with ThreadPoolExecutor(RECORDERS) as pool:
        for done in pool.map(recorder, range(RECORDERS)):
            done.ok()
    waiting.rmdir()
    assert recorded(folder) == recorded(home.origin())
    is_whole(folder)


def kill_during(folder, command, delays):
    """Start a command and kill it, once for each delay; returns how often it was still running."""
    killed = 0
    for delay in delays:
        process = subprocess.Popen(command, cwd=folder, start_new_session=True)
        time.sleep(delay)
        if process.poll() is None:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return killed


def test_a_recorder_killed_anywhere_is_simply_called_again():
    folder = unrecorded("killed")
    command = [lab.PYTHON, "-m", "pipeline.share.record"]
    assert kill_during(folder, command, [0.2 * step for step in range(1, 14)]) >= 2
    (folder / ".git/index.lock").unlink(missing_ok=True)  # git's own, of a kill while it staged
    lab.run(folder, "record").ok()
    assert recorded(folder) == recorded(home.origin())
    is_whole(folder)


def test_a_pull_killed_anywhere_is_simply_called_again():
    clone = home.fresh("half")
    command = [lab.PYTHON, "-m", "dvc", "pull", "--quiet"]
    assert kill_during(clone, command, [0.5, 0.9, 1.2]) >= 1
    # DVC trusts a listing whose files were never fetched, until a pull has failed over it, or has
    # left a folder out; its status says so
    for _ in range(3):
        done = lab.run(clone, "dvc", "pull")
        status = lab.run(clone, "dvc", "status")
        if "up to date" in status.text:
            break
    assert done.code == 0 and "up to date" in status.ok()
    assert lab.jobs(clone, *TARGETS) == {}
    lab.run(clone, "record").ok()  # compares every sum with the manifest


def test_what_is_unfinished_or_not_what_it_says_is_not_recorded():
    folder = unrecorded("doubtful")
    first, second, third = sorted((folder / "results/runs").iterdir())
    (first / "weights.safetensors").unlink()
    (second / "weights.safetensors").write_bytes(b"cut")
    third.rename(third.with_name(third.name[:-1] + ("0" if third.name[-1] != "0" else "1")))
    said = lab.run(folder, "record").fails()
    assert "weights.safetensors: is not what its job wrote" in said
    assert "run.json: describes no run, or another one" in said
    assert not any(n.startswith("results/runs/") for n in recorded(folder))


def test_a_second_content_of_a_recorded_run_is_refused():
    clone = home.fresh("second-content")
    lab.run(clone, "dvc", "pull").ok()
    run = sorted((clone / "results/runs").iterdir())[0]
    text = (run / "history.csv").read_text()
    (run / "history.csv").unlink()
    (run / "history.csv").write_text(text + "1,2,3,4,5\n")
    said = lab.run(clone, "record").fails()
    assert f"dvc pull results/runs/{run.name}" in said
    assert lab.git(clone, "status", "--short", "results").text == ""


def lay(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)


def test_a_killed_writers_leftover_is_no_part_of_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["test.safetensors", "train.safetensors", "validation.safetensors"]
    for name in [*names, ".train.safetensors.0a1b2c3d.tmp"]:
        lay(tmp_path / "data/digits/0a1b", name)
    (artifact,) = finished.on_disk()
    assert [path.name for path in artifact.files] == names


def test_a_users_own_folder_below_data_is_no_artifact(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay(tmp_path / "data/weights/mynet", "test.safetensors")
    lay(tmp_path / "data/raw/cifar10.mine", "verified.json")
    assert list(finished.on_disk()) == []


def test_prepared_data_with_a_hole_are_not_recorded(tmp_path, monkeypatch):
    """They would never be mended: what is recorded first counts."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/digits/0a1b")
    for split in ("train", "test"):
        content = safetensors({"labels": torch.zeros(1)}, {"digest": "0a1b"})
        write_together({folder / f"{split}.safetensors": content}, {})
    (artifact,) = finished.on_disk()
    with pytest.raises(UserError, match="validation.safetensors: is missing; run python -m pipe"):
        finished.verify(artifact)


IDX = ("train-images", "train-labels", "t10k-images", "t10k-labels")


@pytest.mark.parametrize(
    ("layout", "stated", "becomes"),
    [
        ("MNIST/raw/{}", OFFICIAL["mnist"], "known"),
        ("{}.gz", OFFICIAL["mnist"], "added"),
        ("MNIST/raw/{}", ("f" * 64, *OFFICIAL["mnist"][1:]), "refused"),
    ],
)
def test_official_files_in_another_layout_are_what_was_recorded(
    tmp_path, monkeypatch, layout, stated, becomes
):
    monkeypatch.chdir(tmp_path)
    params = small()
    params["datasets"]["mnist"]["sha256"] = list(stated)
    writer.write(tmp_path, params)
    raw, rows = Path("data/raw/mnist"), []
    for name, sha256 in zip(IDX, OFFICIAL["mnist"], strict=True):
        path = layout.format(name)
        lay((raw / path).parent, Path(path).name)
        sums = {"md5": "1" * 32} | ({"sha256": sha256} if path.endswith(".gz") else {})
        rows.append(receipt_row(raw, path, sums))
    write_receipt(raw, rows)

    recorder = Recorder(load_plan())
    about = {"plan": "p", "host": "h", "versions": {}, "bytes": 1, "seconds": 1.0, "rests_on": {}}
    line = manifest.Line(
        artifact=str(raw), sha256={"verified.json": "0" * 64}, date="2026-01-01", **about
    )
    recorder.listed = {str(raw): line}
    monkeypatch.setattr(finished, "check_receipt", lambda raw: None)
    (artifact,) = finished.on_disk()
    recorder.look(artifact)
    assert len(recorder.added) == (becomes == "added")
    assert ["another content was recorded first" in p for p in recorder.problems] == (
        [True] if becomes == "refused" else []
    )
    remedy = "counts; mv data/raw/mnist data/raw/mnist.mine && dvc pull data/raw/mnist, or, if"
    assert all(remedy in problem and "rm " not in problem for problem in recorder.problems)


def test_a_stale_table_is_refused_and_all_else_recorded():
    clone = home.fresh("stale")
    lab.run(clone, "dvc", "pull").ok()
    lab.edit(clone, lambda p: p["tables"]["table1"].update(title="Another"))
    said = lab.run(clone, "record").ok()
    assert f"{lab.TABLE}: is not up to date with params.yaml, so not staged" in said
    assert "unified" in lab.run(clone, "dvc", "status").ok()


def test_a_pool_that_forgot_something_is_noticed():
    clone = home.fresh("forgetful")
    lab.run(clone, "dvc", "pull", "results/records").ok()
    lab.run(clone, "dvc", "commit", "--force", "results/records.dvc").ok()
    victim = next((clone / "results/records").iterdir())
    shutil.rmtree(victim)
    lab.run(clone, "dvc", "commit", "--force", "results/records.dvc").ok()
    said = lab.run(clone, "record").fails()
    assert "results/records.dvc: lacks" in said and "git checkout results/records.dvc" in said


def cached_file(clone, path):
    """Where DVC's cache holds the bytes of a file."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("stage", ["evaluate", "average"])
def test_a_flipped_byte_in_a_cached_weight_is_refused_by_name(stage):
    clone = home.fresh(f"flipped-{stage}", link="symlink")
    lab.run(clone, "dvc", "pull").ok()
    plan = load_plan(clone / "params.yaml")
    (run,) = [r for r in plan.graph.runs.values() if r.entry == "standard"]
    record = next(r for r in plan.graph.records.values() if r.victim.entry == "standard")
    weights = clone / run.folder / "weights.safetensors"
    if stage == "average":
        (run,) = [r for r in plan.graph.runs.values() if r.entry == "pgd_at"]
        lab.edit(clone, lambda p: p["tables"]["table1"]["rows"].append("last_bn"))
        plan = load_plan(clone / "params.yaml")
        (record,) = [r for r in plan.graph.runs.values() if r.entry == "last_bn"]
        weights = clone / run.folder / "weights.safetensors"
    else:
        (clone / record.path).unlink()
    flip(cached_file(clone, weights), -100)
    said = lab.run(clone, stage, record.id).fails()
    assert f"{run.folder}/weights.safetensors: its sha256 is not the one" in said
    assert f"dvc pull {run.folder}" in said
    assert "Traceback" not in said


def test_a_valid_file_of_other_weights_is_refused_too():
    clone = home.fresh("substituted")
    lab.run(clone, "dvc", "pull").ok()
    plan = load_plan(clone / "params.yaml")
    runs = {r.entry: r for r in plan.graph.runs.values()}
    shutil.copyfile(
        clone / runs["pgd_at"].folder / "weights.safetensors",
        clone / runs["standard"].folder / "weights.safetensors",
    )
    record = next(r for r in plan.graph.records.values() if r.victim.entry == "standard")
    (clone / record.path).unlink()
    assert "its sha256 is not the one" in lab.run(clone, "evaluate", record.id).fails()


def test_a_record_of_other_weights_is_refused_by_the_table():
    clone = home.fresh("other-weights")
    lab.run(clone, "dvc", "pull").ok()
    path = clone / "results/manifest.jsonl"
    lines = [json.loads(n) for n in path.read_text().splitlines()]
    line = next(n for n in lines if "/runs/" in n["artifact"] and "-standard-" in n["artifact"])
    line["sha256"]["weights.safetensors"] = line["sha256"]["best.safetensors"] = "0" * 64
    path.write_text("".join(json.dumps(n) + "\n" for n in lines))
    said = lab.run(clone, "tabulate", lab.TABLE).fails()
    assert "was made from other weights or images of" in said and "results/manifest.jsonl" in said


def check_cache(folder):
    """Every object of the cache has the bytes of its name."""
    objects = [p for p in (folder / ".dvc/cache/files/md5").glob("*/*") if p.is_file()]
    assert objects
    for path in objects:
        name = (path.parent.name + path.name).removesuffix(".dir")
        assert hashlib.md5(path.read_bytes()).hexdigest() == name, path


def test_no_stage_writes_through_a_hardlink_into_the_cache():
    clone = home.fresh("linked", link="hardlink")
    lab.run(clone, "dvc", "pull").ok()
    plan = load_plan(clone / "params.yaml")
    (run,) = [r for r in plan.graph.runs.values() if r.entry == "wa"]
    (record,) = [r for r in plan.graph.records.values() if r.victim.entry == "wa"]
    linked = clone / record.path
    assert linked.stat().st_nlink > 1
    for command in (("prepare", "digits"), ("average", run.id), ("evaluate", record.id)):
        assert "nothing to do" in lab.run(clone, *command).ok()
    check_cache(clone)
    # over files that lie there, as after a crash between the first and the last of them
    for path in (clone / run.folder / "weights.safetensors", linked):
        assert path.stat().st_nlink > 1
        path.unlink()
    home.build(clone)
    lab.run(clone, "record").ok()
    check_cache(clone)


def test_a_table_of_ones_own_that_is_no_stage_of_dvc_is_recorded_like_any():
    clone = home.fresh("own-table")
    (clone / ".git/info/exclude").write_text("*.pdf\n")  # as a person's global ignore file may say
    lab.run(clone, "dvc", "pull").ok()
    lab.edit(clone, lambda p: p["tables"].update(mine={"base": "table1", "rows": ["pgd_at"]}))
    home.build(clone)
    lab.run(clone, "record").ok()
    staged = lab.git(clone, "diff", "--cached", "--name-only").text
    assert "results/mine.csv" in staged and "results/metrics/mine/pgd_at.json" in staged
    assert "results/mine.pdf" in staged
    assert "up to date" in lab.run(clone, "dvc", "status", "unified").ok()


def test_nothing_in_the_pipeline_writes_in_place():
    """Every file goes through files.py's rename; what else opens for writing is listed here."""
    allowed = {
        "files.py": 1,  # the lock
        "fetch.py": 1,  # a .part file that is renamed
        "unpack.py": 1,  # files of a folder that is renamed
        "writer.py": 1,  # params.yaml of such a tree
        "equal.py": 3,  # two trees in a temporary folder, and a file that is renamed
        "lease.py": 1,  # a lock under work/
        "pack.py": 1,  # a log
        "warm.py": 1,  # /dev/null
    }
    found = {}
    for path in sorted((lab.ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and writes(node):
                found[path.name] = found.get(path.name, 0) + 1
    assert {k: v for k, v in found.items() if v > allowed.get(k, 0)} == {}


def writes(call):
    """Whether a call opens a file for writing in place."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("write_text", "write_bytes", "savetxt", "to_csv") and call.args:
        return not (name == "to_csv" and not call.args)
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return name == "open" and any(set(m) <= set("rwab+t") and set(m) & set("wa+") for m in modes)
