"""Pools: flat folders that one `.dvc` file each remembers, grown one path at a time.

DVC runs here and in no job. It copies into its cache without relinking, so a file that a job
reads never disappears from under it.
"""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from pipeline.errors import UserError
from pipeline.files import write_atomic
from pipeline.plan.manifest import MANIFEST, Line

HEADER = (
    "# A pool. Conflict here: git merge --abort; make setup; make merge BRANCH=<the other>.\n"
    "# Never `dvc repro -P` or a bare `dvc commit`: they forget what is not pulled.\n"
)
BATCH = 200  # paths a call: an argument list has its limits


def pool_of(path: Path) -> Path:
    """The folder that an artifact's pool tracks: results/runs, data/raw, data/digits."""
    return Path(*path.parts[:2])


def pool_file(pool: Path) -> Path:
    """The `.dvc` file of a pool."""
    return pool.with_name(f"{pool.name}.dvc")


def dvc(arguments: Sequence[str]) -> str:
    """Run DVC, waiting for its lock; raises UserError with its last words."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [n for n in done.stderr.splitlines() if n.startswith("ERROR")]
        raise UserError(f"dvc {' '.join(arguments[:3])} ...: {words[-1] if words else 'failed'}")
    return done.stdout


def git(arguments: Sequence[str]) -> str:
    """Run git; raises UserError with its last words."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"git {' '.join(arguments[:3])}: {words[-1] if words else 'failed'}")
    return done.stdout


def grow(paths: Iterable[Path]) -> list[Path]:
    """Remember paths in their pools (or forget those that are gone); returns the `.dvc` files."""
    by_pool: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_pool[pool_of(path)].append(path)
    for pool, members in by_pool.items():
        if not pool_file(pool).exists():
            entry = f"outs:\n- path: {pool.name}\n  hash: md5\n"
            pool_file(pool).write_text(HEADER + entry)
        for start in range(0, len(members), BATCH):
            part = [str(p) for p in members[start : start + BATCH]]
            dvc(["add", "--no-relink", *part])
    return [pool_file(pool) for pool in by_pool]


def tree_hash(text: str, where: Path) -> str | None:
    """The hash of a pool's listing; None for a pool without one."""
    if "<<<<<<<" in text:
        raise UserError(
            f"{where}: has a merge conflict; run `git merge --abort`, `make setup`, "
            "then `make merge BRANCH=...`"
        )
    try:
        (out,) = yaml.safe_load(text)["outs"]
        found: str | None = out.get("md5")
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        raise UserError(f"{where}: is no pool's file; git checkout {where}") from None
    return found


def write_manifest(lines: Iterable[Line]) -> None:
    """Replace the manifest: sorted, so that two branches change it in different places."""
    text = "".join(f"{line.text()}\n" for line in sorted(lines, key=lambda n: n.artifact))
    write_atomic(MANIFEST, text.encode())


class Trees:
    """Listings of pools, from DVC's cache or its remote. Opens the repository once."""

    def __init__(self) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            self._repo = Repo()
        except DvcException as error:
            raise UserError(f"{error}; run it in the repository's folder") from None

    def load(self, pool: Path, hash: str | None) -> dict[tuple[str, ...], str]:
        """md5 by path below the pool; fetches the listing alone where the cache lacks it."""
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        if hash is None:
            return {}
        info, cache = HashInfo("md5", hash), self._repo.cache.local
        try:
            if not cache.exists(hash):
                self._repo.cloud.pull([info])
            tree = Tree.load(cache, info)
        except (DvcException, OSError, ValueError) as error:
            raise UserError(
                f"{pool_file(pool)}: its listing {hash} is neither in the cache nor in a remote "
                f"({error}); ask who recorded it to run `dvc push`"
            ) from error
        return {key: oid.value for key, _, oid in tree}

    def store(self, pool: Path, entries: dict[tuple[str, ...], str]) -> None:
        """Make the pool's `.dvc` file list exactly these entries."""
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta
        from dvc_data.hashfile.tree import Tree

        tree = Tree()  # type: ignore[no-untyped-call]
        for key in sorted(entries):
            tree.add(key, Meta(), HashInfo("md5", entries[key]))
        tree.digest()
        cache = self._repo.cache.local
        cache.add(tree.path, tree.fs, tree.oid)
        out = f"- md5: {tree.oid}\n  nfiles: {len(tree)}\n  hash: md5\n  path: {pool.name}\n"
        pool_file(pool).write_text(f"{HEADER}outs:\n{out}")
