"""Two branches in every state become one: the union, no false table, nothing else touched."""

import itertools
import json
import os
from contextlib import chdir
from pathlib import Path

import merge_lab as lab
import pytest
from official import md5
from sharing_lab import git

from pipeline.errors import UserError
from pipeline.share import merge, pools
from pipeline.share.discard import discard
from pipeline.store.manifest import MANIFEST, Line

pytestmark = pytest.mark.sharing
MANY = "CRASH_POINTS" in os.environ  # `make crash` asks for all
PAIRS = list(itertools.product(("empty", "recorded"), lab.STATES, lab.STATES))
FEW = [
    ("empty", "built", "recorded"),
    ("empty", "recorded", "recorded"),
    ("empty", "run", "recorded"),
    ("empty", "recorded", "run"),
    ("empty", "dropped", "recorded"),
    ("recorded", "dropped", "none"),
    ("recorded", "none", "dropped"),
]


@pytest.fixture(autouse=True)
def one_plan(monkeypatch):
    """Planning once is enough: every repository here has the same params.yaml."""
    monkeypatch.setattr(merge, "load_plan", lab.plan)


@pytest.mark.parametrize(("base", "ours", "theirs"), PAIRS if MANY else FEW)
def test_two_branches_in_any_states_are_merged_and_merged_already(base, ours, theirs):
    folder = lab.branches(f"{base}-{ours}-{theirs}", base, ours, theirs)
    union = lab.expected(folder)
    with chdir(folder):
        merge.merge("theirs")
        lab.check(folder, union)
        assert "is merged already, nothing to do" in merge.merge("theirs")


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours catches it."""


def kill_before(monkeypatch, number):
    """Die before git call `number`; counts the calls."""
    whole, calls = pools.git, []

    def call(arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise Killed
        return whole(arguments)

    monkeypatch.setattr(pools, "git", call)
    monkeypatch.setattr(merge, "git", call)
    return calls


HARD = [("empty", "recorded", "run"), ("empty", "built", "recorded")]
KILLED = [case for case in PAIRS if "none" not in case[1:]] if MANY else HARD


@pytest.mark.parametrize("case", KILLED)
def test_a_merge_killed_before_any_step_ends_by_the_same_command(case):
    folder = lab.branches("killed", *case)
    union = lab.expected(folder)
    number, step = 1, 1 if MANY and case in HARD else 4
    with chdir(folder):
        while True:
            with pytest.MonkeyPatch.context() as patch:
                calls = kill_before(patch, number)
                try:
                    merge.merge("theirs")
                except Killed:
                    number += step
            if len(calls) < number - step or number > 60:
                break
    print(f"{' '.join(case)}: killed {number // step} times")
    lab.check(folder, union)


def test_a_run_that_gives_way_behind_tables_that_were_never_built():
    """The smallest case of a merge that failed for good: `git rm` of no file at all."""
    folder = lab.branches("unbuilt", "empty", "run", "run")
    with chdir(folder):
        (run, _, tables) = lab.shared()
        assert len(tables) == 2 and not any(t.path.exists() for t in tables)
        assert "1 of ours gave way" in merge.merge("theirs")
        assert not run.folder.exists()


def test_a_lost_runs_snapshots_go_with_it():
    folder = lab.branches("epochs", "empty", "run", "run")
    with chdir(folder):
        run = lab.shared()[0]
        lab.write(run.snapshots / "0001.safetensors", "epoch of ours")
        merge.merge("theirs")
        assert not run.snapshots.exists()


def test_equal_bytes_recorded_twice_stay_ours_and_nothing_rests_on_a_loser():
    """Any two clones that ran the demo hold the same digits, recorded on two days."""
    data, run = Path("data/digits/0123456789"), Path("results/runs/digits-tiny-a-s0-0123456789")
    sum, other = 64 * "a", 64 * "b"

    def recorded(date, weights):
        about = {"plan": "p", "host": date, "versions": {}, "bytes": 1, "seconds": 1.0}
        about["date"] = f"{date}T00:00:00+00:00"
        sums = {str(data): {"test.safetensors": sum}, str(run): {"weights.safetensors": weights}}
        rests_on = {str(data): {}, str(run): {str(data): sum}}
        lines = {n: Line(artifact=n, sha256=sums[n], rests_on=rests_on[n], **about) for n in sums}
        files = {Path(n).parts[-1:] + (f,): date for n in sums for f in [*sums[n], "times"]}
        in_data = {("digits", *k): v for k, v in files.items() if k[0] == data.name}
        in_runs = {k: v for k, v in files.items() if k[0] == run.name}
        return merge.Side(lines, {Path("data"): in_data, Path("results/runs"): in_runs})

    def pool_of(path):
        return Path("data") if path.parts[0] == "data" else Path("results/runs")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge.pools, "pool_of", pool_of)
        ours, theirs = recorded("2026-01-03", sum), recorded("2026-01-02", sum)
        kept, listings = merge.union(ours, theirs)
        assert kept == ours.lines and listings == ours.pools
        assert merge.lost(ours, kept) == merge.lost(theirs, kept) == []

        theirs = recorded("2026-01-02", other)
        kept, listings = merge.union(ours, theirs)
        assert merge.lost(ours, kept) == [run] and merge.lost(theirs, kept) == []
        assert kept[str(run)] == theirs.lines[str(run)]
        assert listings[Path("results/runs")] == theirs.pools[Path("results/runs")]


def changed_by_both(name, file):
    """A repository whose branches, which both computed, hold this file with other words."""
    folder = lab.branches(name, "empty", "recorded", "recorded")
    for who in ("theirs", "ours"):
        git(folder, "checkout", "-q", who)
        lab.write(folder / file, f"words of {who}")
        git(folder, "add", file)
        git(folder, "commit", "-qm", f"{who} writes")
    return folder


def test_a_file_of_results_that_no_target_makes_is_merged_by_hand():
    folder = changed_by_both("notes", "results/notes.md")
    with chdir(folder):
        with pytest.raises(UserError, match=r"^results/notes.md: in conflict; resolve by hand"):
            merge.merge("theirs")
        lab.write(Path("results/notes.md"), "words of both")
        git(folder, "add", "results/notes.md")
        merge.merge("theirs")
        assert Path("results/notes.md").read_text() == "words of both"


def test_what_a_user_gave_to_dvc_is_left_to_git():
    folder = lab.branches("given", "empty", "recorded", "recorded")
    single = "outs:\n- md5: 0123456789abcdef0123456789abcdef\n  path: x.npz\n"
    with chdir(folder):
        pools.Trees().store(Path("data/weights"), {("net.pt",): "0" * 32})
        whole = {"data/weights.dvc": Path("data/weights.dvc").read_text(), "data/x.npz.dvc": single}
        lab.write(Path("data/x.npz.dvc"), single)
        git(folder, "add", "--force", *whole)
        git(folder, "commit", "-qm", "given")
        union = lab.expected(folder)
        merge.merge("theirs")
        assert {name: Path(name).read_text() for name in whole} == whole
    lab.check(folder, union)


def test_a_merge_that_git_refuses_leaves_untracked_tables_where_they_were():
    folder = lab.branches("refused", "empty", "built", "recorded")
    with chdir(folder):
        lab.write(Path("theirs.txt"), "mine, in no commit")  # the branch brings one too
        with pytest.raises(UserError, match="untracked working tree files would be overwritten"):
            merge.merge("theirs")
        made = {file.read_text() for table in lab.shared()[2] for file in table.outputs}
        assert made == {"numbers of ours"}


@pytest.mark.parametrize(
    ("name", "said"), [("nope", "no branch or commit nope here: git fetch"), ("", "no branch is")]
)
def test_a_branch_that_is_not_there_is_refused_in_a_line(name, said):
    with chdir(lab.start()), pytest.raises(UserError, match=f"^{said}"):
        merge.merge(name)


VICTIMS = ["../victim", "../single.txt", "/etc/passwd", "results/runs", ".", "", "data/reported/x"]


def test_a_line_that_names_no_artifact_refuses_the_merge_by_its_number():
    folder = lab.branches("outside", "empty", "recorded", "recorded")
    thesis, single = folder.parent / "victim/thesis.txt", folder.parent / "single.txt"
    for file in (thesis, single):
        lab.write(file, "mine")
    with chdir(folder):
        text = MANIFEST.read_text()
        first = json.loads(text.splitlines()[0])
        for name in VICTIMS:
            other = json.dumps(first | {"artifact": name, "rests_on": {}}, sort_keys=True)
            MANIFEST.write_text(f"{text}{other}\n")
            git(folder, "commit", "-qam", f"a line too many: {name}")
            with pytest.raises(UserError, match=r"HEAD:results/manifest.jsonl:3: .* no artifact"):
                merge.merge("theirs")
    assert thesis.read_text() == single.read_text() == "mine"


def test_nothing_behind_a_link_is_deleted():
    folder = lab.branches("linked", "empty", "recorded", "recorded")
    with chdir(folder):
        outside = folder.parent / "scratch"
        Path("results/runs").rename(outside)
        Path("results/runs").symlink_to(outside)
        with pytest.raises(UserError, match="results/runs: is a link"):
            merge.merge("theirs")
        assert list(outside.iterdir())


def test_of_raw_files_that_give_way_only_the_recorded_bytes_go(tmp_path):
    raw = tmp_path / "data/raw/cifar10"
    held = {"verified.json": "[]", "batches/one": "1", "batches/two": "2", "deep/in/three": "3"}
    own = {"batches/two": "corrected", "cifar.tgz.bad": "mine", "batches/new": "4", "x.part": "5"}
    for name, text in {**held, **own}.items():
        lab.write(raw / name, text)
    listed = {("cifar10", *Path(name).parts): md5(text.encode()) for name, text in held.items()}
    with chdir(tmp_path):
        discard([Path("data/raw/cifar10")], listed | {("mnist", "x"): md5(b"x")})
    assert {str(p.relative_to(raw)): p.read_text() for p in raw.rglob("*") if p.is_file()} == own
    assert not (raw / "deep").exists()

    with chdir(tmp_path):
        listed = {("cifar10", *Path(name).parts): md5(text.encode()) for name, text in own.items()}
        discard([Path("data/raw/cifar10")], listed)
    assert not raw.exists() and (tmp_path / "data/raw").exists()


def test_a_pools_entries_that_are_of_no_artifact_stay():
    """A user's images below data/birds, given to DVC before its data were prepared there."""
    pool, prepared = Path("data/birds"), Path("data/birds/0123456789")
    about = {"plan": "p", "host": "h", "versions": {}, "bytes": 1, "seconds": 1.0, "rests_on": {}}
    one = Line(artifact=str(prepared), sha256={}, date="2026-01-01T00:00:00+00:00", **about)
    entries = {(prepared.name, "test.safetensors"): "1", ("train", "a", "1.png"): "2"}
    ours = merge.Side({str(prepared): one}, {pool: {**entries, (64 * "a", "train"): "orphan"}})
    theirs = merge.Side({}, {pool: {("train", "a", "1.png"): "3", ("new.png",): "4"}})
    assert merge.union(ours, theirs)[1] == {pool: entries | {("new.png",): "4"}}
