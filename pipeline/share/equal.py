"""Prove that a refactored component computes what the committed one did, and keep its identity.

Both trees, the last commit's and the working one, run the same micro-run. When every file agrees
to the byte, equal.json maps the new code's hash to the old one: nothing is trained again.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import load_plan
from pipeline.plan.params import schema
from pipeline.plan.params.words import digest
from pipeline.share import writer
from pipeline.share.micro import params_for
from pipeline.store.scratch import read_scratch, write_scratch

FILE = schema.ROOT / schema.EQUAL
RUN = """
import json, sys
from importlib import import_module
from pipeline.plan import load_plan

def make(stage, name):
    import_module("pipeline." + stage).main([name])

plan = load_plan()
kind = {kind!r}
for name in dict.fromkeys(r.dataset.name for r in plan.graph.runs.values()):
    make("download", name)
    make("prepare", name)
for run in plan.graph.runs.values() if kind != "datasets" else ():
    make(run.stage, run.id)
for record in plan.graph.records.values() if kind == "attacks" else ():
    make("evaluate", record.id)
runs = [str(r.folder / "weights.safetensors") for r in plan.graph.runs.values()]
records = [str(r.path) for r in plan.graph.records.values()]
data = sorted({{str(r.dataset.folder / "test.safetensors") for r in plan.graph.runs.values()}})
print(json.dumps({{"attacks": records, "datasets": data}}.get(kind, runs)))
"""


def prove(component: str) -> str:
    """Run both, compare, and map the new code to the old; raises UserError when they differ."""
    kind, _, name = component.partition("/")
    if kind not in schema.KINDS or not name:
        kinds = ", ".join(schema.KINDS)
        raise UserError(f"--equal {component}: say <kind>/<name>, kind one of {kinds}")

    new = schema.raw_code(kind, name)
    has_cifar10 = Path("data/raw/cifar10/verified.json").exists()
    params = params_for(load_plan().entries.params, kind, name, has_cifar10)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "old", Path(folder) / "new"
        commit = _extract(before)
        _copy(after)
        old = schema.component(kind, name, before).code
        if schema.component(kind, name).code == old:
            return f"{component}: has the code of {commit[:10]} already; nothing to prove"
        results = [
            _collect_committed(before, commit, params, kind),
            _collect_results(after, params, kind),
        ]

    different = sorted(
        k for k in {*results[0], *results[1]} if results[0].get(k) != results[1].get(k)
    )
    if different:
        raise UserError(
            f"{component}: computes something else than in {commit[:10]} ({different[0]}, "
            f"{len(different)} of {len(results[0])} results); it keeps its new identity"
        )
    _write(component, new, old, results[0], commit)
    return (
        f"{component}: {len(results[0])} results agree to the byte with {commit[:10]}; "
        f"its code {new} counts as {old} (commit {schema.EQUAL})"
    )


def _extract(target: Path) -> str:
    """The last commit's tree; returns the commit."""
    try:
        tree = subprocess.run(["git", "archive", "HEAD"], check=True, capture_output=True).stdout
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        raise UserError("--equal compares with the last commit: run it in a git clone") from None

    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        archive.extractall(target, filter="data")
    return head.stdout.strip()


def _copy(target: Path) -> None:
    """The working tree as git sees it."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if Path(name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(Path(name).read_bytes())


def _collect_committed(
    tree: Path, commit: str, params: dict[str, Any], kind: str
) -> dict[str, list[str]]:
    """What the commit's tree makes, kept for the next proof against it on this machine."""
    import torch  # seconds to load, which a proof that is refused before does without

    from pipeline.job.device import describe

    # Host and versions too: other processors need not give the same bytes.
    key = [commit, kind, params, describe(torch.device("cpu"))]
    kept = Path("work/equal") / f"{digest(key, 20)}.json"
    if content := read_scratch(kept):
        found: dict[str, list[str]] = json.loads(content)
        return found
    found = _collect_results(tree, params, kind)
    write_scratch(kept, json.dumps(found).encode())
    return found


def _collect_results(tree: Path, params: dict[str, Any], kind: str) -> dict[str, list[str]]:
    """Run the micro-run in a tree; sums by name, the part of a name that code determines cut."""
    writer.write(tree, params)
    # Recorded sums are of real runs: the micro-run must not be compared with them.
    (tree / "results/manifest.jsonl").unlink(missing_ok=True)

    # A link, not a copy: official files may be gigabytes.
    raw = tree / "data/raw"
    raw.parent.mkdir(exist_ok=True)
    if Path("data/raw").is_dir():
        raw.symlink_to(Path("data/raw").resolve())

    # The last line alone: jobs print before it.
    targets = json.loads(_run(tree, [sys.executable, "-c", RUN.format(kind=kind)]).splitlines()[-1])
    sums_by_name: dict[str, list[str]] = {}
    for target in targets:
        for path in _list_files(tree / target, kind):
            sums_by_name.setdefault(_name_result(path.relative_to(tree)), []).append(
                _sum_result(path)
            )
    return {name: sorted(sums) for name, sums in sums_by_name.items()}


def _run(tree: Path, command: list[str]) -> str:
    # The tree's own code, whichever code runs this.
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        # A process that was killed, for its memory say, has no last word.
        words = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise UserError(f"--equal: the micro-run failed in the {tree.name} tree: {words[-1]}")
    return done.stdout


def _list_files(target: Path, kind: str) -> list[Path]:
    if kind == "attacks":
        return [target]
    return sorted(target.parent.glob("*.safetensors"))


def _name_result(path: Path) -> str:
    """A result's name without the digests, which differ with the code."""
    folder = path.parent.name.rpartition("-")[0] or path.parent.parent.name
    return f"{folder}/{path.name.partition('-')[0]}"


def _sum_result(path: Path) -> str:
    """sha256 of a file; of a record, of its arrays without what it says of itself."""
    digest = hashlib.sha256()
    if path.suffix != ".npz":
        return hashlib.sha256(_drop_digest(path)).hexdigest()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(set(archive.namelist()) - {"meta.npy"}):
            digest.update(name.encode() + archive.read(name))
    return digest.hexdigest()


def _drop_digest(path: Path) -> bytes:
    """The bytes behind a header; the header of prepared data names the code's digest."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = header["__metadata__"]
    header["__metadata__"] = {k: about[k] for k in about if k not in ("digest", "sha256")}
    return json.dumps(header, sort_keys=True).encode() + content[8 + length :]


def _write(component: str, new: str, old: str, results: dict[str, list[str]], commit: str) -> None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    evidence = {"of_commit": commit, "machine": platform.machine(), "results": results}
    known.setdefault(component, {})[new] = {"as": old, **evidence}

    temp = FILE.with_name(f".{FILE.name}.{os.getpid()}.tmp")
    temp.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    temp.replace(FILE)
