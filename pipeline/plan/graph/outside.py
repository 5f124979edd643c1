"""Runs that nobody trains here: weights from a file, under the names their entry gives them."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Run
from pipeline.plan.params import values
from pipeline.plan.params.entries import Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

if TYPE_CHECKING:
    from pipeline.plan.graph.graph import Graph

FILE = "file"  # `of: file` in a victim's entry
KEYS = ("file", "sha256", "method", "mean", "std", "keys")


def run(graph: "Graph", name: str, entry: Entry, setting: Setting) -> tuple[Run, str]:
    """The run of a victim's entry that names a file, and how its members combine.

    Its arch, members and seed are the setting's; `method` builds its networks, `mean` and `std`
    normalise its images, `keys` renames prefixes of its tensors ([[old, new], ...]).
    """
    where = f"params.yaml: victims.{name}"
    for key in KEYS:
        if key not in entry:
            raise UserError(f"{where}: key {key} is missing; add it")
    if not isinstance(entry["file"], str) or Path(entry["file"]).suffix not in (
        ".safetensors",
        ".pt",
        ".pth",
    ):
        raise UserError(f"{where}.file: {entry['file']!r} is no .safetensors, .pt or .pth file")
    entries = graph.entries
    dataset = entries.dataset(entries.stand_in(setting.dataset)[0])
    method, recipe = entries.method(str(entry["method"]), setting)
    spec: Entry = {
        "stage": "adopt",
        "core": entries.core["train"],
        "sha256": str(entry["sha256"]),
        "data": dataset.digest,
        "arch": entries.arch(setting.arch).spec,
        "method": method.spec,
        "recipe": {k: recipe[k] for k in ("normalise",)},
        "statistics": {k: _numbers(entry, k, where, dataset.fields) for k in ("mean", "std")},
        "keys": _renames(entry["keys"], where),
        "members": setting.members,
        "seed": setting.seed,
    }
    id = f"{dataset.name}-{entries.arch(setting.arch).name}-{name}-s{setting.seed}-{digest(spec)}"
    arch = entries.arch(setting.arch).name
    made = Run(id, "adopt", name, dataset, arch, spec, setting.members, file=entry["file"])
    return made, method.fields["combine"]


def _numbers(entry: Entry, key: str, where: str, dataset: Entry) -> list[float]:
    given, wanted = entry[key], dataset["channels"]
    if not isinstance(given, list) or len(given) != wanted:
        raise UserError(f"{where}.{key}: needs one value for each of {wanted} channels")
    return [float(values.fraction(v, f"{where}.{key}")) for v in given]


def _renames(given: object, where: str) -> list[list[str]]:
    if isinstance(given, list) and all(
        isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in given
    ):
        return given
    raise UserError(f"{where}.keys: needs a list of [old prefix, new prefix], or []")
