"""Artifacts that nothing asked for needs at any scale. Only listed: removal is a person's."""

from pathlib import Path

from pipeline.plan import Plan, Run, load_plan
from pipeline.plan.graph.targets import walk
from pipeline.plan.params.values import Entry
from pipeline.share import pools
from pipeline.store import manifest
from pipeline.store.names import is_artifact

FOLDERS = ("results/runs/*", "results/snapshots/*", "data/*/*")


def needed(params: Entry) -> set[str]:
    """Paths of everything some table or figure needs at some scale."""
    paths: set[str] = set()
    for scale in params["scales"]:
        plan = Plan({**params, "scale": scale})
        artifacts = walk(plan.graph, plan.targets.values())
        paths |= {artifact.path.as_posix() for artifact in artifacts}
        runs = [artifact for artifact in artifacts if isinstance(artifact, Run)]
        paths |= {f.as_posix() for run in runs for f in (run.snapshots, run.dataset.raw)}
    return paths


def present() -> set[str]:
    """Paths of everything on disk or in the manifest."""
    disk = {p.as_posix() for pattern in FOLDERS for p in Path().glob(pattern) if p.is_dir()}
    # beside artifacts lies what nobody made here: a user's own images, what papers report
    disk = {p for p in disk if p.startswith("results/snapshots/") or is_artifact(p)}
    return (
        disk
        | {p.as_posix() for p in Path("results/records").glob("*/*.npz")}
        | {p.as_posix() for p in Path("results/transfer").glob("*.safetensors")}
        | set(manifest.read())
    )


def unused() -> str:
    """One line an artifact: size, where it is, path; then how to remove it."""
    params = load_plan().entries.params
    listed = manifest.read()
    lines, total = [], 0
    for path in sorted(present() - needed(params)):
        size = _measure_size(Path(path)) or (listed[path].bytes if path in listed else 0)
        total += size
        where = "recorded" if path in listed else "here only"
        lines.append(f"{size / 1e6:10.2f} MB  {where:9}  {path}")

    if not lines:
        return "nothing: every artifact is needed by a table at some scale"
    return "\n".join(
        [
            *lines,
            f"{total / 1e6:10.2f} MB in {len(lines)} artifacts that no table needs at any scale.",
            f"To remove: rm -r <paths>. {_advise(Path(pools.dvc(['cache', 'dir']).strip()))}",
        ]
    )


def _advise(cache: Path) -> str:
    """What `dvc gc` may do to this cache."""
    if cache.resolve().is_relative_to(Path.cwd().resolve()):
        return (
            "A recorded one stays in the cache and in the remote, for commits list it; "
            "dvc gc --workspace --all-commits frees what no commit here lists."
        )
    return (
        f"The cache {cache} is outside this clone: where others share it, dvc gc needs "
        "--projects with every clone of theirs, or it deletes what they alone have."
    )


def _measure_size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.exists() else 0
