"""Merge a branch that trained something too: `python -m pipeline merge BRANCH` (`make merge`).

Pools and manifest become the union. Of a run that both trained, the first recorded one stays; what
rests on the other is dropped and planned again. Nothing is retrained, nothing leaves the remote.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.plan import Target, load_plan
from pipeline.share import pools
from pipeline.share.discard import RAW, RUNS, check_inside, discard
from pipeline.share.pools import Entries, Trees, git
from pipeline.store import manifest
from pipeline.store.files import locked, write_atomic
from pipeline.store.manifest import MANIFEST, Line
from pipeline.store.names import is_artifact

POOLS = {RUNS, Path("results/records"), Path("results/transfer"), RAW}


@dataclass(frozen=True)
class Side:
    """What one branch recorded: manifest lines by artifact, and its pools' listings."""

    lines: dict[str, Line]
    pools: dict[Path, Entries]


def side(commit: str, trees: Trees) -> Side:
    """What a commit recorded; what else of results/ and data/ a user gave to DVC is git's."""
    names = git(["ls-tree", "--name-only", commit, "results/", "data/"]).splitlines()
    lines: list[Line] = []
    if MANIFEST.as_posix() in names:
        where = Path(f"{commit}:{MANIFEST}")
        lines = manifest.parse(git(["show", str(where)]), where)

    listings = {}
    for pool in sorted(POOLS | {pools.pool_of(Path(line.artifact)) for line in lines}):
        file = pools.pool_file(pool)
        if file.as_posix() in names:
            text = git(["show", f"{commit}:{file}"])
            listings[pool] = trees.load(pool, pools.tree_hash(text, file))
    return Side(manifest.winners(lines), listings)


def union(ours: Side, theirs: Side) -> tuple[dict[str, Line], dict[Path, Entries]]:
    """Manifest lines and pool listings that hold after the merge."""
    won = manifest.winners([*ours.lines.values(), *theirs.lines.values()])
    kept = manifest.without_orphans(won)
    # Of equal bytes ours stay, with the times beside them: nothing has to be fetched.
    kept |= {n: own for n, own in ours.lines.items() if n in kept and _is_same(own, kept[n])}

    listings = {
        p: _pick_loose(theirs, p) | _pick_loose(ours, p) for p in {**ours.pools, **theirs.pools}
    }
    for name, line in kept.items():
        source = ours if ours.lines.get(name) == line else theirs
        path = Path(name)
        pool = pools.pool_of(path)
        entries = _pick_below(source.pools.get(pool, {}), path.relative_to(pool))
        if not entries:
            raise UserError(f"{pools.pool_file(pool)}: lacks {name}, which {MANIFEST} lists")
        listings[pool] |= entries
    return kept, listings


def _pick_loose(side: Side, pool: Path) -> Entries:
    """Entries of a pool of prepared data that are a user's own beside them."""
    entries = {} if pool in POOLS else side.pools.get(pool, {})
    return {k: v for k, v in entries.items() if not is_artifact((pool / k[0]).as_posix())}


def _pick_below(entries: Entries, path: Path) -> Entries:
    """Entries of one artifact: of its folder, or its file and the times beside it."""
    beside = path.with_suffix(".time.json").parts
    n = len(path.parts)
    return {k: v for k, v in entries.items() if k[:n] == path.parts or k == beside}


def lost(branch: Side, kept: dict[str, Line]) -> list[Path]:
    """Artifacts of a branch that no longer count; what was recorded twice with equal bytes does."""
    return [
        Path(name)
        for name, line in branch.lines.items()
        if name not in kept or not _is_same(line, kept[name])
    ]


def _is_same(one: Line, other: Line) -> bool:
    """Whether two lines are of the same bytes, made from the same."""
    return (one.sha256, one.rests_on) == (other.sha256, other.rests_on)


def merge(branch: str) -> str:
    """Merge and commit; returns what happened. Leaves conflicts of other files to the user.

    Called again after these were resolved, or after it was killed, it goes on from there.
    """
    if not branch.strip():
        raise UserError("no branch is named: make merge BRANCH=<one that git branch -a lists>")
    _find_commit(branch)

    going_on = _is_under_way(branch)
    if _is_merged(branch):
        if going_on:  # killed when the commit was made and git had not tidied up
            git(["merge", "--quit"])
        return f"{branch}: is merged already, nothing to do"

    if not going_on and git(["status", "--porcelain", "--untracked-files=no"]).strip():
        raise UserError("the working tree has changes: `make record`, `git commit`, then merge")

    trees = Trees()
    ours, theirs = side("HEAD", trees), side(branch, trees)
    kept, listings = union(ours, theirs)

    # Looked at before anything is changed: a refusal leaves both branches as they were.
    gone = lost(ours, kept)
    check_inside(gone)
    targets = _find_targets(going_on)
    if not going_on:
        _merge_by_git(branch, targets)

    for pool, entries in listings.items():
        trees.store(pool, entries)
    pools.write_manifest(list(kept.values()))
    git(["add", "--force", "--", str(MANIFEST), *(str(pools.pool_file(p)) for p in listings)])

    left = _settle_derived(targets)
    if left:
        raise UserError(
            f"{', '.join(left)}: in conflict; resolve by hand, `git add`, then the same command "
            "again (pools and manifest are merged already)"
        )

    # Only now: until here a refusal leaves every artifact where it was.
    discard(gone, ours.pools.get(RAW, {}))
    _drop_tables({*gone, *lost(theirs, kept)})
    git(["commit", "--no-edit", "--quiet"])

    dropped = len({*ours.lines, *theirs.lines} - set(kept))
    return (
        f"merged {branch}: {len(kept)} artifacts; {len(gone)} of ours gave way to earlier ones, "
        f"{dropped} dropped with them and planned again. Next: python -m pipeline.plan "
        "results/table1.csv --pull; snakemake; make record"
    )


def _is_merged(branch: str) -> bool:
    """Whether all of a branch is in this one."""
    return git(["rev-list", "--count", f"HEAD..{branch}"]).strip() == "0"


def _find_commit(name: str) -> str:
    try:
        return git(["rev-parse", "--verify", f"{name}^{{commit}}"]).strip()
    except UserError:
        raise UserError(f"no branch or commit {name} here: git fetch, then git branch -a") from None


def _find_under_way() -> str | None:
    """The commit that git is merging at present."""
    file = Path(git(["rev-parse", "--git-path", "MERGE_HEAD"]).strip())
    return file.read_text().strip() if file.exists() else None


def _is_under_way(branch: str) -> bool:
    """Whether a merge of this branch waits to be finished; raises UserError for another one's."""
    commit = _find_under_way()
    if commit is not None and commit != _find_commit(branch):
        raise UserError(
            f"git is merging {commit[:10]}, not {branch}: finish or `git merge --abort`"
        )
    return commit is not None


def _find_targets(going_on: bool) -> list[Target]:
    """Tables and figures of our plan; none while conflicts of a merge that goes on hide it."""
    try:
        return list(load_plan().targets.values())
    except UserError:
        if not going_on:
            raise
        return []


def _merge_by_git(branch: str, targets: list[Target]) -> None:
    """Let git merge all else; conflicts are looked at afterwards."""
    aside = _make_way(branch, targets)
    try:
        git(["merge", "--no-commit", "--no-ff", branch])
    except UserError:
        if _find_under_way() is None:  # refused: all stays as it was
            for path, content in aside.items():
                write_atomic(path, content)
            raise


def _make_way(branch: str, targets: list[Target]) -> dict[Path, bytes]:
    """Delete untracked tables and figures that the branch brings: git would refuse to merge.

    Returns what they held.
    """
    brought = set(git(["ls-tree", "-r", "--name-only", branch, "results/"]).splitlines())
    own = set(git(["ls-files", "--others", "--exclude-standard", "results/"]).splitlines())
    derived = _pick_derived(brought & own, targets)
    aside = {Path(name): Path(name).read_bytes() for name in derived}
    for path in aside:
        path.unlink()
    return aside


def _pick_derived(names: Iterable[str], targets: list[Target]) -> list[str]:
    """Those of these files that are made again: of a table or figure, and DVC's lock file."""
    files = {"dvc.lock", *(str(file) for target in targets for file in target.outputs)}
    folders = {folder for target in targets for folder in target.folders}
    return [n for n in names if n in files or folders & set(Path(n).parents)]


def _settle_derived(targets: list[Target]) -> list[str]:
    """Take our tables and lock file, which are made again; returns what is still in conflict."""
    unmerged = git(["diff", "--name-only", "--diff-filter=U"]).splitlines()
    derived = _pick_derived(unmerged, targets)
    for name in derived:
        if " 2\t" in git(["ls-files", "--stage", "--", name]):  # 2 is git's word for ours
            git(["checkout", "--ours", "--", name])
            git(["add", "--", name])
        else:
            git(["rm", "--quiet", "--force", "--", name])
    return [n for n in unmerged if n not in derived]


def _drop_tables(gone: set[Path]) -> None:
    """Remove targets that rest on what no longer counts."""
    plan = load_plan()
    for target in plan.targets.values():
        records, runs = plan.needs(target)
        files = [str(f) for f in target.outputs if f.exists()]
        if files and gone & {*(r.path for r in records), *(r.folder for r in runs)}:
            git(["rm", "--quiet", "--force", "--ignore-unmatch", "--", *files])
            for file in files:  # git leaves what it does not know
                Path(file).unlink(missing_ok=True)


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline merge", description=__doc__)
    parser.add_argument("branch", help="branch or commit to merge into this one")
    args = parser.parse_args(argv)
    with locked(MANIFEST.parent):
        print(merge(args.branch))


if __name__ == "__main__":
    report(main)
