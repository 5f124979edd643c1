"""Trainings that start from the user's own weights: `weights:` in a method's entry names them."""

from pipeline.errors import UserError
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry

KEYS = ("file", "sha256", "names", "fresh")
NAMES = ("ours", "torchvision")  # how the file names a ResNet's tensors
SUFFIXES = (".safetensors", ".pt", ".pth")
LACKS = "needs weights"  # what stands in a row whose file nobody has given


def check(entries: Entries, name: object, where: str) -> Entry:
    """An entry of `weights:`; raises UserError for the first key that is none or mistyped.

    sha256: of the file, or none while there is no file. fresh: prefixes of tensors that may be of
    another shape, as a stem and a head are, and are then drawn.
    """
    known = entries.section("weights")
    entry = known[values.find(known, where, name)]
    own = f"weights.{name}"
    values.only(entry, KEYS, own, must=KEYS)
    checks.one_of(entry["names"], NAMES, f"{own}.names")
    if not isinstance(entry["file"], str) or not entry["file"].endswith(SUFFIXES):
        raise UserError(f"params.yaml: {own}.file: {entry['file']!r} is no .safetensors, .pt, .pth")
    values.as_word(entry["sha256"], f"params.yaml: {own}.sha256")
    if not isinstance(entry["fresh"], list) or not all(type(p) is str for p in entry["fresh"]):
        raise UserError(f"params.yaml: {own}.fresh: needs a list of prefixes, or []")
    return entry


def spec(entries: Entries, method: str) -> tuple[Entry, str | None]:
    """What a run's identity says of the weights it starts from, and their file."""
    name = entries.entry("methods", method)[1].get("weights")
    if name is None:
        return {}, None
    entry = check(entries, name, f"methods.{method}.weights")
    if entry["sha256"] == "none":
        raise UserError(
            f"params.yaml: weights.{name}.sha256: is none; {method} starts from your own "
            f"{entry['file']}: put it there and write its sha256"
        )
    return {"init": {k: entry[k] for k in KEYS if k != "file"}}, entry["file"]


def lacks(entries: Entries, kinds: dict[str, str], row: str) -> bool:
    """Whether a row rests on weights that nobody has given."""
    for kind in ("victims", "averages"):  # a victim of an average of a method
        if kinds.get(row) == kind:
            row = str(entries.entry(kind, row)[1].get("of"))
    is_method = kinds.get(row) == "methods"
    name = entries.entry("methods", row)[1].get("weights") if is_method else None
    return name is not None and check(entries, name, row)["sha256"] == "none"
