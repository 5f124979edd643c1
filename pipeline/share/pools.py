"""Pools: flat folders that one `.dvc` file each remembers, grown one path at a time.

DVC runs here and in no job. It copies into its cache without relinking, so a file that a job
reads never disappears from under it.
"""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import UserError
from pipeline.store.files import checksum, write_atomic
from pipeline.store.manifest import MANIFEST, Line
from pipeline.store.names import LISTING, is_file_name

if TYPE_CHECKING:
    from dvc_data.hashfile.hash_info import HashInfo

Entries = dict[tuple[str, ...], str]  # md5 by path below a pool

LOCKED, PAUSES = "index.lock': File exists", (0.1, 0.4, 1, 2, 4)  # seconds to wait for it

HEADER = (
    "# A pool. Conflict here: git merge --abort; make setup; make merge BRANCH=<the other>.\n"
    "# Never `dvc repro -P` or a bare `dvc commit`: they forget what is not pulled.\n"
)


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
    """Run git; raises UserError with its first complaint.

    It waits for another git to end, and is a session of its own: what kills us lets it end.
    """
    for pause in (*PAUSES, None):
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",  # what is no text is refused by who reads it, in its words
            check=False,
            start_new_session=True,
        )

        if done.returncode == 0:
            return done.stdout
        if pause is None or LOCKED not in done.stderr:
            break
        time.sleep(pause)
    raise UserError(f"git {' '.join(arguments[:3])}: {_find_complaint(done.stderr or done.stdout)}")


def _find_complaint(text: str) -> str:
    """The first line that says what is wrong; git's last one may be an advice, or "Aborting"."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("hint:")]
    wrong = [line for line in lines if line.startswith(("fatal:", "error:", "CONFLICT"))]

    words = (wrong or lines[-1:] or ["failed"])[0]
    lock = " (no git is at work in this folder? then delete that file)" if LOCKED in words else ""
    return f"{words}{lock}"


def grow(paths: Iterable[Path]) -> None:
    """Remember paths in their pools, beside what these list already."""
    by_pool: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_pool[pool_of(path)].append(path)

    trees = Trees()
    for pool, members in by_pool.items():
        trees.add(pool, members)


def listed_in(file: Path) -> str | None:
    """The hash of the listing that a pool's file names; None where there is no file or none."""
    if not file.exists():
        return None
    return tree_hash(file.read_text(errors="surrogateescape"), file)


def tree_hash(text: str, where: Path) -> str | None:
    """The hash of a pool's listing; None for a pool without one."""
    if "<<<<<<<" in text:
        raise UserError(
            f"{where}: has a merge conflict; run `git merge --abort`, `make setup`, "
            "then `make merge BRANCH=...`"
        )
    try:
        (out,) = yaml.load(text, Loader=yaml.BaseLoader)["outs"]
        hash, path = out.get("md5"), out["path"]
        # git hands its merge driver copies under other names
        is_pool = path == where.stem if where.suffix == ".dvc" else is_file_name(path)
        is_pool = is_pool and (hash is None or LISTING.fullmatch(hash) is not None)
    except (yaml.YAMLError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
        is_pool, hash = False, None

    if not is_pool:
        raise UserError(f"{where}: is not the file of the pool {where.stem}; git checkout {where}")
    return None if hash is None else str(hash)


def write_manifest(lines: Iterable[Line]) -> None:
    """Replace the manifest: sorted, so that two branches change it in different places."""
    text = "".join(f"{line.text()}\n" for line in sorted(lines, key=lambda n: n.artifact))
    write_atomic(MANIFEST, text.encode())


def _is_entry(key: tuple[str, ...], md5: Any) -> bool:
    """Whether a listing's entry is the sum of a file below its pool."""
    return bool(key) and all(map(is_file_name, key)) and isinstance(md5, str)


class Trees:
    """Listings of pools, from DVC's cache or its remote. Opens the repository once."""

    def __init__(self) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            self._repo = Repo(_wait_for_lock=True)
        except DvcException as error:
            raise UserError(f"{error}; run it in the repository's folder") from None

    def load(self, pool: Path, hash: str | None) -> Entries:
        """md5 by path below the pool; fetches the listing alone where the cache lacks it."""
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        if hash is None:
            return {}

        info, cache = HashInfo("md5", hash), self._repo.cache.local
        try:
            if not cache.exists(hash):
                self._pull(info)
            file = Path(cache.oid_to_path(hash))
            is_whole = f"{checksum(file, 'md5')}.dir" == hash  # DVC itself does not ask
            entries = {key: oid.value for key, _, oid in Tree.load(cache, info)} if is_whole else {}
        except (DvcException, OSError, ValueError) as error:
            raise UserError(
                f"{pool_file(pool)}: its listing {hash} is neither in the cache nor in a remote "
                f"({' '.join(str(error).split())}); ask who recorded it to run `dvc push`"
            ) from error
        except (AttributeError, KeyError, RecursionError, TypeError):
            is_whole = False

        if not (is_whole and all(_is_entry(key, md5) for key, md5 in entries.items())):
            raise UserError(f"{file}: is damaged; delete it and run the same command again")
        return entries

    def _pull(self, info: "HashInfo") -> None:
        """Fetch one object from the remote; whatever goes wrong is an OSError."""
        try:
            self._repo.cloud.pull([info])
        except Exception as error:  # of any library that reaches a remote: no key, no package
            raise OSError(str(error) or type(error).__name__) from error

    def add(self, pool: Path, paths: Sequence[Path]) -> None:
        """Copy artifacts into the cache, then list them; what DVC ignores is left out.

        `dvc add` does this path by path and writes the whole listing for each (3.67.1).
        """
        from dvc.fs import localfs
        from dvc.repo import lock_repo
        from dvc_data.hashfile.hash import hash_file

        # DVC's own lock, for another `record` may grow the same pool.
        with lock_repo(self._repo):
            replaced = {p.relative_to(pool).parts for p in paths}
            listed = self.load(pool, listed_in(pool_file(pool)))
            # All of an artifact's old entries go: it may have fewer files now.
            kept = {k: v for k, v in listed.items() if not replaced & {k[:1], k[:2]}}

            files = [f for path in paths for f in self._list_files(path)]
            cache, state = self._repo.cache.local, self._repo.state
            sums = [str(hash_file(f, localfs, "md5", state)[1].value) for f in files]
            cache.add(files, localfs, sums)

            names = [Path(f).relative_to(pool.absolute()).parts for f in files]
            self.store(pool, kept | dict(zip(names, sums, strict=True)))

    def _list_files(self, path: Path) -> list[str]:
        """Absolute names of what an artifact's pool tracks."""
        from dvc.fs import localfs

        if not path.is_dir():
            return [str(path.absolute())]
        return sorted(self._repo.dvcignore.find(localfs, str(path.absolute())))

    def store(self, pool: Path, entries: Entries) -> None:
        """Make the pool's `.dvc` file list exactly these entries."""
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta
        from dvc_data.hashfile.tree import Tree

        tree = Tree()  # type: ignore[no-untyped-call]
        for key in sorted(entries):
            tree.add(key, Meta(), HashInfo("md5", entries[key]))
        tree.digest()

        # The listing goes into the cache before a .dvc file names it.
        cache = self._repo.cache.local
        cache.add(tree.path, tree.fs, tree.oid)
        out = f"- md5: {tree.oid}\n  nfiles: {len(tree)}\n  hash: md5\n  path: {pool.name}\n"
        write_atomic(pool_file(pool), f"{HEADER}outs:\n{out}".encode())
