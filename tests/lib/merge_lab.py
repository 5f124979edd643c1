"""Two branches of a repository whose artifacts are a few bytes each, and their merge in-process."""

import shutil
from contextlib import chdir
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import sharing_lab as lab
import sharing_origin as home

from pipeline.plan import load_plan
from pipeline.share import merge, pools
from pipeline.store import manifest
from pipeline.store.files import sha256_of
from pipeline.store.manifest import MANIFEST, Line

STATES = ("none", "built", "run", "recorded", "dropped")
DATES = {"base": "2026-01-01", "ours": "2026-01-03", "theirs": "2026-01-02"}
FILES = (".gitignore", ".gitattributes", ".dvcignore", ".dvc/.gitignore", ".dvc/config")


@cache
def start():
    """A repository of a tiny plan: two tables that share a run, nothing computed."""
    folder = Path(mkdtemp(dir=home.world()))
    for name in (*FILES, "params.yaml", "dvc.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lab.ROOT / name, folder / name)
    home.shrink(folder, rows=("standard", "pgd_at"))
    lab.git(folder, "init", "-q", "-b", "main")
    lab.identify(folder)
    lab.git(folder, "add", "-A")
    lab.commit(folder, "start")
    return folder


def repository(name):
    """A copy of it."""
    folder = Path(mkdtemp(dir=home.world(), prefix=name)) / "repository"
    shutil.copytree(start(), folder, symlinks=True)
    return folder


@cache
def plan():
    """Of every copy: all hold the same params.yaml, and paths are relative."""
    with chdir(start()):
        return load_plan()


@cache
def shared():
    """The run, and the records and tables that rest on it."""
    found = plan()
    (run,) = [r for r in found.graph.runs.values() if r.entry == "standard"]
    records = [r for r in found.graph.records.values() if r.victim.entry == "standard"]
    return run, records, list(found.tables.values())


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def compute(who):
    """Run, records and tables as this branch's machine would make them."""
    run, records, tables = shared()
    for name in ("weights.safetensors", "best.safetensors", "history.csv", "run.json"):
        write(run.folder / name, f"{name} of {who}")
    for record in records:
        write(record.path, f"verdicts of {who}")
    for table in tables:
        for file in table.outputs:
            write(file, f"numbers of {who}")


def line(path, who, rests_on=None):
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    sums = {file.name: sha256_of(file) for file in files}
    about = {"plan": "p", "host": "h", "versions": {}, "bytes": 1, "seconds": 1.0}
    date = f"{DATES[who]}T00:00:00+00:00"
    return Line(artifact=str(path), sha256=sums, rests_on=rests_on or {}, date=date, **about)


def remember(who, with_records=True):
    """Pools and manifest, as `make record` writes them, and a commit."""
    run, records, tables = shared()
    weights = {str(run.folder): sha256_of(run.folder / "weights.safetensors")}
    paths = [run.folder, *((r.path for r in records) if with_records else ())]
    lines = [line(p, who, weights if p != run.folder else {}) for p in paths]
    known = manifest.read()
    new = {n.artifact: n for n in lines if n.artifact not in known}
    pools.grow([Path(name) for name in new])
    pools.write_manifest((known | new).values())
    stage(tables if with_records else [])
    lab.git(Path.cwd(), "commit", "-qm", who)


def stage(tables):
    files = [f for table in tables for f in table.outputs]
    pools.git(
        ["add", "--", str(MANIFEST), *map(str, Path("results").glob("*.dvc")), *map(str, files)]
    )


def forget():
    """Drop the records and tables, as a merge drops what rests on a run that gave way."""
    _, records, tables = shared()
    kept = {k: v for k, v in manifest.read().items() if Path(k) not in [r.path for r in records]}
    pools.write_manifest(kept.values())
    trees, pool = pools.Trees(), Path("results/records")
    trees.store(pool, {})
    pools.git(["add", "--", str(MANIFEST), "results/records.dvc"])
    pools.git(["rm", "-qf", "--", *(str(f) for t in tables for f in t.outputs)])
    for record in records:
        record.path.unlink(missing_ok=True)
    lab.git(Path.cwd(), "commit", "-qm", "dropped")


def reach(state, who, base):
    """Bring a branch into a state; `base` says what both began with."""
    lab.git(Path.cwd(), "checkout", "-q", "-b", who, "main")
    write(Path(f"{who}.txt"), who)
    pools.git(["add", f"{who}.txt"])
    lab.git(Path.cwd(), "commit", "-qm", f"{who} begins")
    if base != "recorded" and state != "none":
        compute(who)
    if state in ("recorded", "dropped") and base != "recorded":
        remember(who)
    if state == "run" and base != "recorded":
        for table in shared()[2]:
            [f.unlink() for f in table.outputs]
        [r.path.unlink() for r in shared()[1]]
        remember(who, with_records=False)
    if state == "dropped":
        forget()


def clear():
    """The working tree without what no branch has."""
    for name in ("results/runs", "results/records"):
        shutil.rmtree(name, ignore_errors=True)
    for table in shared()[2]:
        for file in table.outputs:
            if str(file) in pools.git(["ls-files", "--others", "--", str(file)]).split():
                file.unlink()


def branches(name, base, ours, theirs):
    """A repository on `ours` beside `theirs`, each in its state."""
    folder = repository(name)
    with chdir(folder):
        if base == "recorded":
            compute("base")
            remember("base")
        reach(theirs, "theirs", base)
        clear()
        reach(ours, "ours", base)
    return folder


def expected(folder):
    """The manifest's union, and whether tables may be in the commit: both from the two branches."""
    sides = []
    for who in ("ours", "theirs"):
        text = lab.git(folder, "show", f"{who}:{MANIFEST}", check=False)
        sides.append(manifest.parse(text.text) if text.code == 0 else [])
    return manifest.without_orphans(manifest.winners([*sides[0], *sides[1]]))


def check(folder, union):
    """The merge is whole: union listed, nothing lost on disk, no table of what gave way."""
    assert not (folder / ".git/MERGE_HEAD").exists()
    text = folder / MANIFEST
    listed = manifest.winners(manifest.parse(text.read_text() if text.exists() else ""))
    assert listed == union
    assert lab.git(folder, "status", "--porcelain", "--untracked-files=no").text == ""
    with chdir(folder):
        trees, (_, records, tables) = pools.Trees(), shared()
        for name in union:
            pool = pools.pool_of(Path(name))
            file = pools.pool_file(pool)
            entries = trees.load(pool, pools.tree_hash(file.read_text(), file))
            assert merge._pick_below(entries, Path(name).relative_to(pool)), name
        tracked = pools.git(["ls-files", "results"]).split()
        for table in tables:
            if str(table.path) in tracked:
                said = table.path.read_text().removeprefix("numbers of ")
                for record in records:
                    assert union[str(record.path)].date.startswith(DATES[said]), (table.path, said)
