"""Finished artifacts on disk, verified against what their names and files say of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params.words import digest
from pipeline.raw.receipt import NAME as RECEIPT
from pipeline.raw.receipt import check_receipt
from pipeline.store import manifest
from pipeline.store.files import check_safetensors, sha256_of, write_atomic
from pipeline.store.records import meta, read_arrays

RUNS, RECORDS, DATA = Path("results/runs"), Path("results/records"), Path("data")
SETS = Path("results/transfer")
LAST = {"run": "weights.safetensors", "raw": RECEIPT, "data": "test.safetensors"}  # written last
SEEN = Path("work/recorded.json")


@dataclass(frozen=True)
class Finished:
    """An artifact that lies complete on disk; `files` are those that the manifest sums."""

    path: Path
    kind: str  # run, record, transfer, data or raw
    files: tuple[Path, ...]

    @property
    def times(self) -> dict[str, Any]:
        """Seconds, host and versions, from the file beside it; empty where none was written."""
        within = {"run": "run.time.json", "data": "prepare.time.json"}
        path = self.path / within[self.kind] if self.kind in within else self._beside
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def _beside(self) -> Path:
        return self.path.with_suffix(".time.json")

    @property
    def bytes(self) -> int:
        """Size of everything that its pool tracks, times apart."""
        files = self.path.rglob("*") if self.kind == "raw" else self.files
        return sum(f.stat().st_size for f in files if f.is_file())

    @property
    def members(self) -> list[Path]:
        """The paths that its pool tracks."""
        is_file = self.kind in ("record", "transfer")
        return [self.path, self._beside] if is_file and self._beside.exists() else [self.path]


def on_disk() -> Iterator[Finished]:
    """Every finished artifact of every pool."""
    for folder in sorted(RUNS.glob("*/")):
        if (folder / LAST["run"]).exists():
            names = ("best.safetensors", "history.csv", "run.json", "weights.safetensors")
            files = tuple(folder / n for n in names if (folder / n).exists())
            yield Finished(folder, "run", files)
    for path in sorted(RECORDS.glob("*/*.npz")):
        yield Finished(path, "record", (path,))
    for path in sorted(SETS.glob("*.safetensors")):
        yield Finished(path, "transfer", (path,))
    for folder in sorted(DATA.glob("*/*/")):
        kind = "raw" if folder.parent.name == "raw" else "data"
        if (folder / LAST[kind]).exists():
            files = (folder / RECEIPT,) if kind == "raw" else tuple(sorted(folder.glob("*.safe*")))
            yield Finished(folder, kind, files)


def verify(artifact: Finished) -> dict[str, str]:
    """sha256 of the weights it rests on, by run; raises UserError when it is not what it says."""
    checks = {"run": _run, "record": _record, "transfer": _set, "data": _data, "raw": _raw}
    return checks[artifact.kind](artifact)


def _run(artifact: Finished) -> dict[str, str]:
    for path in artifact.files:
        if path.suffix == ".safetensors":
            check_safetensors(path)
    try:
        details = json.loads((artifact.path / "run.json").read_text())
        name, spec, parents = details["id"], details["spec"], details["inherited"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{artifact.path}/run.json: cannot be read; delete the folder") from None
    if name != artifact.path.name or not name.endswith(f"-{digest(spec)}"):
        raise UserError(f"{artifact.path}: its run.json describes another run; delete the folder")
    listed = manifest.read()
    return {p: s for p in parents if (s := _weights(p, listed)) is not None}


def _weights(run: str, listed: manifest.Manifest) -> str | None:
    """sha256 of a parent's last weights, recorded or here."""
    recorded = manifest.weights_of(run, listed)
    path = RUNS / run / LAST["run"]
    if recorded is not None:
        return recorded[LAST["run"]]
    return sha256_of(path) if path.exists() else None


def _record(artifact: Finished) -> dict[str, str]:
    about = meta(read_arrays(artifact.path))
    name = f"{about['victim']}/{about['suite']}-{digest(about['spec'])}.npz"
    if artifact.path != RECORDS / name:
        raise UserError(f"{artifact.path}: describes another record ({name}); delete it")
    manifest.check_rests_on(artifact.path, about["weights"])
    return dict(about["weights"])


def _set(artifact: Finished) -> dict[str, str]:
    about = check_safetensors(artifact.path)
    if not artifact.path.stem.endswith(f"-{digest(json.loads(about['spec']))}"):
        raise UserError(f"{artifact.path}: describes another transfer set; delete it")
    weights: dict[str, str] = json.loads(about["weights"])
    manifest.check_rests_on(artifact.path, weights)
    return weights


def _data(artifact: Finished) -> dict[str, str]:
    for path in artifact.files:
        if check_safetensors(path)["digest"] != artifact.path.name:
            raise UserError(f"{path}: belongs to another folder; delete {artifact.path}")
    return {}


def _raw(artifact: Finished) -> dict[str, str]:
    check_receipt(artifact.path)
    return {}


class Sums:
    """sha256 of files, hashed again only when their size or time changed."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Any]] = {}
        if SEEN.exists():
            self._seen = json.loads(SEEN.read_text())

    def of(self, artifact: Finished) -> dict[str, str]:
        """sha256 by file name."""
        return {path.name: self._sum(path) for path in artifact.files}

    def _sum(self, path: Path) -> str:
        stat = path.stat()
        now, key = [stat.st_size, stat.st_mtime_ns, stat.st_ino], path.as_posix()
        if self._seen.get(key, [None])[0] != now:
            self._seen[key] = [now, sha256_of(path)]
        return str(self._seen[key][1])

    def save(self) -> None:
        """Keep them for the next time."""
        write_atomic(SEEN, json.dumps(self._seen, sort_keys=True).encode())
