"""A clone has nothing to do, an edit runs exactly its jobs, editing back costs nothing."""

import os
import shutil
import subprocess

import pytest
import sharing_lab as lab
import sharing_origin as home

from pipeline.plan import load_plan

pytestmark = pytest.mark.sharing

ALL = {"evaluate": 3, "tabulate": 2}
TARGETS = (lab.TABLE, home.PAPER)


def jobs(folder, **options):
    return lab.jobs(folder, *TARGETS, **options)


def status(folder):
    return lab.run(folder, "dvc", "status").ok()


def is_clean(folder):
    return "up to date" in status(folder)


def more_steps(params):
    params["scales"]["demo"]["attacks"]["pgd10"]["steps"] = 5


def has_reflinks(folder):
    (folder / "reflink_a").write_text("a")
    command = ["cp", "--reflink=always", "reflink_a", "reflink_b"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("link", "shared"),
    [
        ("copy", False),
        ("symlink", True),
        ("hardlink", True),
        pytest.param("hardlink", False, marks=pytest.mark.thorough),
        pytest.param("reflink", True, marks=pytest.mark.thorough),
    ],
)
def test_a_clone_has_nothing_to_do_until_a_number_is_edited(link, shared):
    if link == "reflink" and not has_reflinks(home.world()):
        pytest.skip("this file system has no reflinks")
    cache = home.world() / f"cache-{link}" if shared else None
    clone = home.fresh(f"{link}-{shared}", link=link, cache=cache)
    assert jobs(clone) == {}  # nothing pulled
    old = lab.edit(clone, more_steps)
    refusal = lab.run(clone, "snakemake", "-q", "rules", "-c1", *TARGETS).fails()
    assert "1 data set, 2 trainings, 1 average would be made again" in refusal
    (clone / "params.yaml").write_text(old)
    lab.run(clone, "dvc", "pull").ok()
    assert jobs(clone) == {}
    assert is_clean(clone)
    lab.edit(clone, more_steps)
    assert jobs(clone) == ALL
    said = status(clone)
    assert all(stage in said for stage in ("unified:", "paper@aute:"))
    (clone / "params.yaml").write_text(old)
    assert jobs(clone) == {}
    assert is_clean(clone)


def test_the_guards_own_line_is_enough_for_an_edit():
    clone = home.fresh("advised")
    lab.edit(clone, more_steps)
    refusal = lab.run(clone, "snakemake", "-q", "rules", "-c1", *TARGETS).fails()
    line = next(n.strip() for n in refusal.splitlines() if n.strip().startswith("dvc pull"))
    lab.run(clone, *line.split()).ok()
    assert jobs(clone) == ALL


@pytest.fixture(scope="module")
def pulled():
    clone = home.fresh("pulled", link="symlink")
    lab.run(clone, "dvc", "pull").ok()
    return clone


@pytest.fixture
def restored(pulled):
    yield pulled
    lab.git(pulled, "checkout", "-q", ".")


def artifacts(folder):
    """Bytes by path of everything computed; times and DVC's files are no artifacts."""
    files = [p for part in ("data", "results") for p in (folder / part).rglob("*")]
    names = {p.relative_to(folder).as_posix(): p for p in files if p.is_file()}
    tracked = set(lab.git(home.bare(), "ls-files").text.split())
    no = (".time.json", ".dvc", "manifest.jsonl", ".lock", ".gitignore")
    found = {n: p for n, p in names.items() if n not in tracked and not n.endswith(no)}
    return {n: p.read_bytes() for n, p in found.items()}


def test_repro_of_one_paper_from_nothing_builds_that_paper_alone():
    folder = home.paper_alone()
    plan = load_plan(folder / "params.yaml")
    (run,) = [r.id for r in plan.graph.runs.values() if r.entry == "standard"]
    assert [r.name for r in (folder / "results/runs").iterdir()] == [run]
    assert (folder / home.PAPER).exists() and not (folder / lab.TABLE).exists()
    assert jobs(folder).keys() == {"train", "trajectory", "average", "evaluate", "tabulate"}
    lab.run(folder, "dvc", "status", "paper@aute").ok()
    assert lab.jobs(folder, home.PAPER) == {}


def test_snakemake_alone_makes_the_same_bytes_as_repro():
    plain = home.empty("plain")
    lab.run(plain, "snakemake", "-q", "rules", "-c2", *TARGETS).ok()
    made, expected = artifacts(plain), artifacts(home.origin())
    assert sum(n.endswith(".safetensors") for n in made) > 8
    assert made.keys() == expected.keys()
    assert [n for n in made if made[n] != expected[n]] == []
    assert "Nothing to be done" in lab.run(plain, "snakemake", "-n", *TARGETS).ok()


def test_repro_from_nothing_builds_what_the_plan_asks_for():
    origin = home.origin()
    plan = load_plan(origin / "params.yaml")
    assert {r.name for r in (origin / "results/runs").iterdir()} == set(plan.graph.runs)
    assert all((origin / r.path).exists() for r in plan.graph.records.values())
    assert all((origin / t.path).exists() for t in plan.tables.values())
    assert [p.name for p in (origin / "data/raw").iterdir()] == ["digits"]
    assert jobs(origin) == {}
    assert is_clean(origin)


def test_two_swapped_values_are_noticed(restored):
    def swap(params):
        attacks = params["scales"]["demo"]["attacks"]
        first, second = attacks["pgd10"]["steps"], attacks["mim50"]["steps"]
        attacks["pgd10"]["steps"], attacks["mim50"]["steps"] = second, first
        assert first != second

    lab.edit(restored, swap)
    assert jobs(restored) == ALL
    assert not is_clean(restored)


def test_touching_every_source_file_runs_nothing(restored):
    for name in lab.git(restored, "ls-files").text.split():
        os.utime(restored / name, (2_000_000_000, 2_000_000_000))
    assert jobs(restored) == {}
    assert is_clean(restored)


def test_a_reformatted_method_runs_nothing(restored):
    path = restored / "pipeline/methods/pgd_at.py"
    path.write_text(path.read_text().replace("\n\n", "\n\n\n# a remark\n\n"))
    assert jobs(restored) == {}


def test_a_changed_method_runs_again_with_what_rests_on_it(restored):
    path = restored / "pipeline/methods/pgd_at.py"
    text = path.read_text()
    assert "return " in text
    path.write_text(text.replace("return ", "return 1 * ", 1))
    # pgd_at and its average; the table of `standard` alone has nothing to do
    found = jobs(restored)
    assert found == {"train": 1, "trajectory": 1, "average": 1, "evaluate": 2, "tabulate": 1}
    assert "unified:" in status(restored)


def test_without_its_metadata_snakemake_knows_as_much(restored):
    shutil.rmtree(restored / ".snakemake", ignore_errors=True)
    assert jobs(restored) == {}
    lab.edit(restored, more_steps)
    assert jobs(restored) == ALL


def test_records_alone_are_enough_for_a_table():
    clone = home.fresh("records")
    lab.run(clone, "dvc", "pull", "results/records").ok()
    assert jobs(clone) == {}
    lab.edit(clone, lambda p: p["tables"]["table1"].update(columns=["clean", "pgd10"]))
    assert jobs(clone) == {"tabulate": 1}
    lab.run(clone, "snakemake", "-q", "rules", "-c1", *TARGETS).ok()
    assert "mim50" not in (clone / lab.TABLE).read_text().splitlines()[0]
    assert jobs(clone) == {}


def test_an_ordinary_user_runs_a_hardlinked_clone():
    clone = home.fresh("user", link="hardlink")
    lab.run(clone, "dvc", "pull", ordinary=True).ok()
    weights = next((clone / "results/runs").glob("*/weights.safetensors"))
    assert weights.stat().st_nlink > 1 and not weights.stat().st_mode & 0o222
    assert jobs(clone, ordinary=True) == {}
    lab.edit(clone, lambda p: p["tables"]["table1"].update(columns=["clean"]))
    assert jobs(clone, ordinary=True) == {"tabulate": 1}
    lab.run(clone, "snakemake", "-q", "rules", "-c1", *TARGETS, ordinary=True).ok()
    assert jobs(clone, ordinary=True) == {}
    lab.run(clone, "record", ordinary=True).ok()


def test_without_rights_means_that_read_only_files_refuse_writes(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    path.chmod(0o444)
    pid = os.fork()
    if pid == 0:
        lab.drop_rights()
        os._exit(0 if not os.access(path, os.W_OK) else 1)
    assert os.waitpid(pid, 0)[1] == 0
