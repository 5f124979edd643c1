"""What a component's class must be, seen in its source: what is refused here would end its jobs in
a traceback, or be left out of its numbers without a word."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

BASES = {"methods": "Method", "averages": "Average", "datasets": "ImageSet"}  # of contracts/
WRITES = {  # one of which a class must have, its base in contracts/ apart
    "archs": ("build",),
    "attacks": ("__call__",),
    "averages": ("combine",),
    "datasets": ("load",),
    "figures": ("numbers",),
    "methods": ("loss", "step"),
}
EDGES = ("Attack", "Parent", "Start", "Earlier", "Arch", "Place")  # names of other things
STATED = (*EDGES, "Radius", "Epoch", "Arguments")  # types that the plan reads from entries
NUMBERS = ("int", "float", "Radius", "list[int]", "list[float]")  # types of fields that are
EVERY = ("joint", "combine")  # fields of every method, which the plan reads likewise
RANGES = "ranges"  # the constant by which a class says what its numbers may be


def check(
    kind: str,
    path: Path,
    chain: list[ast.ClassDef],
    types: Mapping[str, str],
    usual: Mapping[str, Any],
) -> None:
    """Raise UserError unless a class, first of `chain` before its bases, can be a component."""
    own = chain[0]
    if not any(map(_is_frozen, own.decorator_list)):
        raise UserError(
            f"{path}:{own.lineno}: write @dataclass(frozen=True, kw_only=True) above class "
            f"{own.name}"
        )
    base = BASES.get(kind)
    if base and base not in [node.name for node in chain]:
        raise UserError(
            f"{path}:{own.lineno}: class {own.name} does not inherit {base}; import that, or a "
            "class that does, by its name: from pipeline... import ..."
        )
    wanted = WRITES[kind]
    if not any(writes(node, name) for node in chain if node.name != base for name in wanted):
        raise UserError(
            f"{path}:{own.lineno}: class {own.name} has no {' or '.join(wanted)}; write it"
        )
    _check_types(kind, path, types)
    # A field at its usual value is in no record, and there a ball without a norm is of linf.
    if kind == "attacks" and usual.get("norm", "linf") != "linf":
        raise UserError(
            f"{path}: {own.name}.norm is stated by every entry; take its value out of the class"
        )


def writes(node: ast.ClassDef, name: str) -> bool:
    """Whether a class itself defines a function of that name, or gives the name a value."""
    written = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
    given = [item.targets for item in node.body if isinstance(item, ast.Assign)]
    return name in (*written, *(ast.unparse(target) for targets in given for target in targets))


def _is_frozen(decorator: ast.expr) -> bool:
    if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("dataclass"):
        return False
    return any(k.arg == "frozen" and _is_true(k.value) for k in decorator.keywords)


def _is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def _check_types(kind: str, path: Path, types: Mapping[str, str]) -> None:
    if kind in ("attacks", "methods") and types.get("eps", "Radius") != "Radius":
        raise UserError(
            f"{path}: field eps is of type {types['eps']}, so no stand-in and no table would "
            "change it; write eps: Radius (pipeline.contracts.fields)"
        )
    radii = [key for key, of in types.items() if of == "Radius"]
    if kind == "attacks" and radii and "eps" not in types:
        raise UserError(
            f"{path}: field {radii[0]} is a Radius and there is no eps, the one by which results "
            "are checked and tables vary them; call the radius of its ball eps"
        )
    for key, of in types.items():
        if kind != "figures" and of in [f"list[{edge}]" for edge in EDGES]:
            raise UserError(f"{path}: field {key}: {of} is not built; write a field for each")


def read_default(item: ast.AnnAssign, key: str, where: str, *, is_method: bool) -> Any:
    """The value that a class gives to a field; raises UserError where it may have none, or where
    it is no constant."""
    of = ast.unparse(item.annotation)
    if (is_method and key in EVERY) or of.removeprefix("list[").removesuffix("]") in STATED:
        raise UserError(f"{where} is stated by every entry; take its value out of the class")
    assert item.value is not None
    try:
        value = ast.literal_eval(item.value)
    except ValueError:
        raise UserError(f"{where} has a value that is no constant; write one, or none") from None
    if isinstance(value, list | dict | set):
        raise UserError(f"{where} has a value that may change; write a list as a tuple, (0, 1)")
    return list(value) if isinstance(value, tuple) else value


def read_ranges(
    chain: Iterable[ast.ClassDef], types: Mapping[str, str], path: Path
) -> dict[str, list[float]]:
    """What a class says of its numbers, least and most by field, by
    `ranges: ClassVar = {"tau": (-1, 1)}`; raises UserError where that is something else."""
    for item in (item for node in chain for item in node.body):
        if not isinstance(item, ast.AnnAssign) or ast.unparse(item.target) != RANGES:
            continue
        if not item.value or not ast.unparse(item.annotation).startswith("ClassVar"):
            continue
        try:
            stated = ast.literal_eval(item.value)
            found = {key: [float(least), float(most)] for key, (least, most) in stated.items()}
        except (AttributeError, TypeError, ValueError):
            found = {}
        numbers = [key for key, of in types.items() if of in NUMBERS]
        if not found or found.keys() - {*numbers}:
            raise UserError(
                f"{path}:{item.lineno}: {RANGES} has two numbers for a field, such as "
                f'{{"{next(iter(numbers), "tau")}": (-1, 1)}}'
            )
        return found
    return {}
