"""Finished artifacts on disk, verified against what their names and files say of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.artifact import SPLITS
from pipeline.plan.graph.artifacts import TRAINING_FILES, run_files
from pipeline.plan.params.words import digest
from pipeline.raw.local import LINK
from pipeline.raw.receipt import NAME as RECEIPT
from pipeline.raw.receipt import check_receipt
from pipeline.store import manifest
from pipeline.store.details import details
from pipeline.store.files import check_safetensors
from pipeline.store.names import is_artifact, is_sha256
from pipeline.store.records import meta, read_record, rests_on
from pipeline.store.sums import read_mapping, sum_of

RUNS, RECORDS, DATA = Path("results/runs"), Path("results/records"), Path("data")
SETS = Path("results/transfer")
# written last
LAST = {"run": TRAINING_FILES["weights"], "raw": RECEIPT, "data": "test.safetensors"}


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
        return read_mapping(path)

    def sums(self) -> dict[str, str]:
        """sha256 by file name."""
        return {path.name: sum_of(path) for path in self.files}

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
            names = sorted(TRAINING_FILES.values())
            files = tuple(folder / n for n in names if (folder / n).exists())
            yield Finished(folder, "run", files)

    for path in sorted(RECORDS.glob("*/*.npz")):
        yield Finished(path, "record", (path,))
    for path in sorted(SETS.glob("*.safetensors")):
        yield Finished(path, "transfer", (path,))

    for folder in sorted(DATA.glob("*/*/")):
        kind = "raw" if folder.parent.name == "raw" else "data"
        is_ours = not (kind == "raw" and (folder / LINK).is_symlink())  # else the user's own
        if is_ours and is_artifact(folder.as_posix()) and (folder / LAST[kind]).exists():
            # By name: a killed writer's leftover ends in .tmp beside them.
            names = [RECEIPT] if kind == "raw" else [f"{split}.safetensors" for split in SPLITS]
            files = tuple(folder / n for n in sorted(names) if (folder / n).exists())
            yield Finished(folder, kind, files)


def verify(artifact: Finished) -> dict[str, str]:
    """sha256 of what it rests on, by artifact; raises UserError when it is not what it says."""
    if artifact.kind != "raw":  # its receipt holds its sums; corrected files are other than listed
        for path in artifact.files:
            manifest.verify(path)
    checks = {
        "run": _verify_run,
        "record": _verify_record,
        "transfer": _verify_set,
        "data": _verify_data,
        "raw": _verify_raw,
    }
    rests_on = checks[artifact.kind](artifact)
    manifest.check_rests_on(artifact.path, rests_on)
    return rests_on


def _verify_run(artifact: Finished) -> dict[str, str]:
    for path in artifact.files:
        if path.suffix == ".safetensors":
            check_safetensors(path)

    about = details(artifact.path)
    # An id ends in the digest of its spec: run.json of another run cannot pass.
    if not about["id"].endswith(f"-{digest(about['spec'])}"):
        raise UserError(f"{artifact.path}: its run.json describes another run; delete the folder")

    needed = run_files(about["spec"].get("stage", ""), artifact.path.name).values()
    holes = sorted(set(needed) - set(artifact.files))
    if holes:
        raise UserError(f"{holes[0]}: is missing; run the same workflow again")

    stated = artifact.times.get("rests_on")
    if isinstance(stated, dict) and all(map(is_artifact, stated)) and _are_sums(stated):
        return stated
    # Made before its job wrote so, or damaged: what counts today.
    listed = manifest.read()
    parents = about["inherited"]
    return {f"{RUNS}/{p}": s for p in parents if (s := _find_weights(p, listed)) is not None}


def _find_weights(run: str, listed: manifest.Manifest) -> str | None:
    """sha256 of a parent's last weights, recorded or here."""
    recorded = manifest.weights_of(run, listed)
    path = RUNS / run / LAST["run"]
    if recorded is not None:
        return recorded[LAST["run"]]
    return sum_of(path) if path.exists() else None


def _are_sums(below: Mapping[str, Any]) -> bool:
    return all(isinstance(sha256, str) and is_sha256(sha256) for sha256 in below.values())


def _verify_record(artifact: Finished) -> dict[str, str]:
    about = meta(read_record(artifact.path, ()))
    name = f"{about['victim']}/{about['suite']}-{digest(about['spec'])}.npz"

    if artifact.path != RECORDS / name:
        raise UserError(f"{artifact.path}: describes another record ({name}); delete it")
    return rests_on(about)


def _verify_set(artifact: Finished) -> dict[str, str]:
    about = check_safetensors(artifact.path)
    try:
        is_its = artifact.path.stem.endswith(f"-{digest(json.loads(about['spec']))}")
        below = rests_on({"weights": json.loads(about["weights"])})
    except (AttributeError, KeyError, RecursionError, ValueError):
        is_its, below = False, {}

    if not is_its or not _are_sums(below):
        raise UserError(f"{artifact.path}: describes another transfer set; delete it")
    return below


def _verify_data(artifact: Finished) -> dict[str, str]:
    for split in SPLITS:
        path = artifact.path / f"{split}.safetensors"
        if path not in artifact.files:
            name = artifact.path.parent.name
            raise UserError(f"{path}: is missing; run python -m pipeline.prepare {name}")
    for path in artifact.files:
        if check_safetensors(path).get("digest") != artifact.path.name:
            raise UserError(f"{path}: belongs to another folder; delete {artifact.path}")
    return {}


def _verify_raw(artifact: Finished) -> dict[str, str]:
    check_receipt(artifact.path)
    return {}
