"""Weights from a user's file: runs that nobody trains here, and trainings that start from them."""

from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Run
from pipeline.plan.graph.graph import Graph
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

FILE = "file"  # `of: file` in a victim's entry
FILE_KEYS = ("file", "sha256", "method", "mean", "std", "keys")
SUFFIXES = (".safetensors", ".pt", ".pth")
WEIGHTS_KEYS = ("file", "sha256", "names", "fresh")  # of an entry of `weights:`
NAMES = ("ours", "torchvision", "cifar")  # how the file names a ResNet's tensors
LACKS = "needs weights"  # what stands in a row whose file nobody has given


def name_adopted(graph: Graph, name: str, entry: Entry, setting: Setting) -> tuple[Run, str]:
    """The run of a victim's entry that names a file, and how its members combine.

    Its arch, members and seed are the setting's; `method` builds its networks, `mean` and `std`
    normalise its images, `keys` renames prefixes of its tensors ([[old, new], ...]), `names` says
    whose names they are.
    """
    where = f"params.yaml: victims.{name}"
    for key in FILE_KEYS:
        if key not in entry:
            raise UserError(f"{where}: key {key} is missing; add it")
    if not isinstance(entry["file"], str) or Path(entry["file"]).suffix not in SUFFIXES:
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
    if "names" in entry:
        spec["names"] = checks.one_of(entry["names"], NAMES, f"victims.{name}.names")

    id = f"{dataset.name}-{entries.arch(setting.arch).name}-{name}-s{setting.seed}-{digest(spec)}"
    arch = entries.arch(setting.arch).name
    adopted = Run(id, "adopt", name, dataset, arch, spec, setting.members, file=entry["file"])
    return graph.runs.setdefault(id, adopted), method.fields["combine"]


def _numbers(entry: Entry, key: str, where: str, dataset: Entry) -> list[float]:
    given, wanted = entry[key], dataset["channels"]
    if not isinstance(given, list) or len(given) != wanted:
        raise UserError(f"{where}.{key}: needs one value for each of {wanted} channels")

    numbers = [float(values.fraction(v, f"{where}.{key}")) for v in given]
    for value in numbers:  # of pixels in [0, 1], which a std of 0 would divide by
        if not 0 <= value <= 1 or (key == "std" and value == 0):
            least = "above 0" if key == "std" else "at least 0"
            raise UserError(
                f"{where}.{key}: {value:g} must be {least} and at most 1, of pixels in [0, 1]; "
                "write 78.6/255 for a network of pixels in [0, 255]"
            )
    return numbers


def _renames(given: object, where: str) -> list[list[str]]:
    if isinstance(given, list) and all(
        isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in given
    ):
        return given
    raise UserError(f"{where}.keys: needs a list of [old prefix, new prefix], or []")


# ---- `weights:` in a method's entry: the file that its members start from


def check_weights(entries: Entries, name: object, where: str) -> Entry:
    """An entry of `weights:`; raises UserError for the first key that is none or mistyped.

    sha256: of the file, or none while there is no file. fresh: prefixes of tensors that may be of
    another shape, as a stem and a head are, and are then drawn.
    """
    known = entries.section("weights")
    entry = known[values.find(known, where, name)]

    own = f"weights.{name}"
    values.only(entry, WEIGHTS_KEYS, own, must=WEIGHTS_KEYS)
    checks.one_of(entry["names"], NAMES, f"{own}.names")
    if not isinstance(entry["file"], str) or not entry["file"].endswith(SUFFIXES):
        raise UserError(f"params.yaml: {own}.file: {entry['file']!r} is no .safetensors, .pt, .pth")
    values.as_word(entry["sha256"], f"params.yaml: {own}.sha256")
    if not isinstance(entry["fresh"], list) or not all(type(p) is str for p in entry["fresh"]):
        raise UserError(f"params.yaml: {own}.fresh: needs a list of prefixes, or []")
    return entry


def describe_start(entries: Entries, method: str) -> tuple[Entry, str | None]:
    """What a run's identity says of the weights it starts from, and their file."""
    name = entries.entry("methods", method)[1].get("weights")
    if name is None:
        return {}, None
    entry = check_weights(entries, name, f"methods.{method}.weights")

    if entry["sha256"] == "none":
        raise UserError(
            f"params.yaml: weights.{name}.sha256: is none; {method} starts from your own "
            f"{entry['file']}: put it there and write its sha256"
        )
    return {"init": {k: entry[k] for k in WEIGHTS_KEYS if k != "file"}}, entry["file"]


def lacks_weights(entries: Entries, kinds: dict[str, str], row: str) -> bool:
    """Whether a row rests on weights that nobody has given."""
    for kind, edge in (("victims", "of"), ("averages", "method")):
        if kinds.get(row) == kind:  # a victim of an average of a method
            row = str(entries.entry(kind, row)[1].get(edge))

    is_method = kinds.get(row) == "methods"
    name = entries.entry("methods", row)[1].get("weights") if is_method else None
    return name is not None and check_weights(entries, name, row)["sha256"] == "none"
