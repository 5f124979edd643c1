"""Weights from a user's files: runs that nobody trains here, and trainings that start from them."""

import ast
import re
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Run
from pipeline.plan.graph.graph import Graph
from pipeline.plan.params import checks, code, values
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest
from pipeline.store.files import sha256_of

FILE = "file"  # `of: file` in a victim's entry
FILE_KEYS = ("file", "sha256", "method", "mean", "std")
WEIGHTS_KEYS = ("file", "sha256", "names", "fresh")  # of an entry of `weights:`
READING = ("keys", "drop", "part")  # how the tensors of a file are taken, where it must be said
SUFFIX = re.compile(r".+\.(safetensors|pt|pth|th|t7|bin|ckpt|tar)(\.tar)?(\.\d+)?")
# whose names the file's tensors have; which layers they are says pipeline/loading/layouts.py
NAMES = (
    "ours",
    "auto",
    "torchvision",
    "cifar",
    "preact",
    "trades",
    "vgg",
    "mobilenet",
    "small_cnn",
)
LACKS = "needs weights"  # what stands in a row whose file nobody has given
OWN_PACKAGE = __name__.partition(".")[0]
MODULE = "module"  # stands for an arch in the id of a user's own network
ELSEWHERE = "not at this scale"  # and in one whose file is of another data set


def name_adopted(graph: Graph, name: str, entry: Entry, setting: Setting) -> tuple[Run, str]:
    """The run of a victim's entry that names a file, and how its members combine.

    Members and seed are the setting's, the arch is the entry's, or else the one that stands for
    the table's at this scale. `method` builds its networks, `mean` and `std` normalise its images.
    """
    where = f"params.yaml: victims.{name}"
    for key in FILE_KEYS:
        if key not in entry:
            raise UserError(f"{where}: key {key} is missing; add it")
    files, sums = _files(entry, f"victims.{name}")

    entries = graph.entries
    dataset = entries.dataset(entries.stand_in(setting.dataset)[0])
    if not is_of(entries, entry, setting.dataset):
        raise UserError(f"{where}: its file is of another data set than {dataset.name}")

    method, recipe = entries.method(str(entry["method"]), setting)
    label, arch = _network(entries, entry, setting, where)

    spec: Entry = {
        "stage": "adopt",
        "core": entries.core["train"],
        "sha256": sums,
        "data": dataset.digest,
        "arch": arch,
        "method": method.spec,
        "recipe": {k: recipe[k] for k in ("normalise",)},
        "statistics": {k: _numbers(entry, k, where, dataset.fields) for k in ("mean", "std")},
        "members": setting.members,
        "seed": setting.seed,
        "keys": [],
        **_reading(entry, f"victims.{name}"),
    }
    if "names" in entry:
        spec["names"] = checks.one_of(entry["names"], NAMES, f"victims.{name}.names")

    id = f"{dataset.name}-{label}-{name}-s{setting.seed}-{digest(spec)}"
    adopted = Run(id, "adopt", name, dataset, label, spec, setting.members, files=files)
    return graph.runs.setdefault(id, adopted), method.fields["combine"]


def _network(entries: Entries, entry: Entry, setting: Setting, where: str) -> tuple[str, Entry]:
    """The name and identity of a file's network: an arch of ours, or a user's own function."""
    if "model" not in entry:
        exact = "arch" in entry
        arch = entries.exact_arch(setting.arch) if exact else entries.arch(setting.arch)
        return arch.name, arch.spec

    return MODULE, describe_module(entry["model"], f"{where}.model")


def describe_module(model: object, where: str) -> Entry:
    """What an identity says of a user's own network: where it is built, and the sum of its code."""
    path, _, function = str(model).rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise UserError(f"{where}: {model!r} is not like my_file.py:build")
    if not Path(path).is_file():
        raise UserError(f"{where}: {path} is missing; put it there")
    return {"model": model, "code": sum_module(Path(path))}


def sum_module(path: Path) -> str:
    """sha256 of a user's file; of all of `list_files` where it imports some."""
    sums = {name: sha256_of(file) for name, file in list_files(path).items()}
    return next(iter(sums.values())) if len(sums) == 1 else digest(sums, 64)


def list_files(path: Path) -> dict[str, Path]:
    """A user's file and what it imports beside it, directly or not, by names below its folder.

    Read from the source, as the code of components is: an import by a computed name is not seen.
    """
    path = path.resolve()  # what is imported lies beside the file itself, not beside a link to it
    folder, files, left = path.parent, dict[str, Path](), [path]
    while left:
        file = left.pop()
        name = file.relative_to(folder).as_posix()
        if name not in files:
            files[name] = file
            left += _imports_beside(file, folder)
    return files


def _imports_beside(file: Path, folder: Path) -> set[Path]:
    """The files below a folder that one of them imports, itself no part of this project."""
    try:
        tree = code.parse(file)
    except UserError:  # nothing is imported from what is no Python; building it says so
        return set()

    package = ".".join(file.relative_to(folder).parent.parts)
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {
        ".".join(filter(None, (module, name)))
        for node in nodes
        for module, name, _ in code.imports(node, package)
    }
    found = set[Path]()
    for parts in [name.split(".") for name in names]:
        if parts[0] == OWN_PACKAGE:  # whose shared code has numbers of its own
            continue
        above = [folder.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
        found |= {place / "__init__.py" for place in above}
        found |= {place.with_name(f"{place.name}.py") for place in above}
    return {path for path in found if path.is_file()}


def is_of(entries: Entries, entry: Entry, asked: str) -> bool:
    """Whether a file's victim can be judged on what stands for a data set at this scale.

    It is of the data set that its entry names, or else of the table's: none stands in for that.
    """
    own = values.find(entries.section("datasets"), "victims: dataset", entry.get("dataset", asked))
    return own == entries.stand_in(asked)[0]


def is_elsewhere(entries: Entries, kinds: dict[str, str], row: str, asked: str) -> bool:
    """Whether a row is a file's victim of another data set than the one of this scale."""
    if kinds.get(row) != "victims":
        return False
    entry = entries.entry("victims", row)[1]
    return entry.get("of") == FILE and not is_of(entries, entry, asked)


def _files(entry: Entry, where: str) -> tuple[tuple[str, ...], str | list[str]]:
    """The files of an entry, one or one a member, and their sums as the entry has them."""
    given, sums = entry["file"], entry["sha256"]
    files = given if isinstance(given, list) else [given]
    for file in files:
        if not isinstance(file, str) or not SUFFIX.fullmatch(Path(file).name):
            raise UserError(
                f"params.yaml: {where}.file: {file!r} is no file of weights "
                "(.safetensors, .pt, .pth, .bin, .ckpt, .tar)"
            )

    stated = sums if isinstance(sums, list) else [sums]
    if len(stated) != len(files) or isinstance(sums, list) != isinstance(given, list):
        raise UserError(
            f"params.yaml: {where}.sha256: needs one for each of {len(files)} files, as a list "
            "where file is one"
        )
    words = [values.as_word(sum, f"params.yaml: {where}.sha256") for sum in stated]
    return tuple(files), words if isinstance(sums, list) else words[0]


def _reading(entry: Entry, where: str) -> Entry:
    """How the tensors of a file are taken, of what the entry says."""
    spec: Entry = {}
    if "keys" in entry:
        spec["keys"] = _renames(entry["keys"], f"params.yaml: {where}")
    if "drop" in entry:
        spec["drop"] = _prefixes(entry["drop"], f"params.yaml: {where}.drop")
    if "part" in entry:
        spec["part"] = values.as_word(entry["part"], f"params.yaml: {where}.part")
    return spec


def _prefixes(given: object, where: str) -> list[str]:
    if isinstance(given, list) and all(type(prefix) is str for prefix in given):
        return given
    raise UserError(f"{where}: needs a list of prefixes, or []")


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
    values.only(entry, (*WEIGHTS_KEYS, *READING), own, must=WEIGHTS_KEYS)
    checks.one_of(entry["names"], NAMES, f"{own}.names")
    _files(entry, own)
    _reading(entry, own)
    _prefixes(entry["fresh"], f"params.yaml: {own}.fresh")
    return entry


def describe_start(entries: Entries, method: str) -> tuple[Entry, tuple[str, ...]]:
    """What a run's identity says of the weights it starts from, and their files."""
    name = entries.entry("methods", method)[1].get("weights")
    if name is None:
        return {}, ()
    entry = check_weights(entries, name, f"methods.{method}.weights")

    if entry["sha256"] == "none":
        raise UserError(
            f"params.yaml: weights.{name}.sha256: is none; {method} starts from your own "
            f"{entry['file']}: put it there and write its sha256"
        )
    return {"init": {k: v for k, v in entry.items() if k != "file"}}, _files(entry, name)[0]


def lacks_weights(entries: Entries, kinds: dict[str, str], row: str) -> bool:
    """Whether a row rests on weights that nobody has given."""
    for kind, edge in (("victims", "of"), ("averages", "method")):
        if kinds.get(row) == kind:  # a victim of an average of a method
            row = str(entries.entry(kind, row)[1].get(edge))

    is_method = kinds.get(row) == "methods"
    name = entries.entry("methods", row)[1].get("weights") if is_method else None
    return name is not None and check_weights(entries, name, row)["sha256"] == "none"
