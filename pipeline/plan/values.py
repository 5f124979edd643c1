"""Values of params.yaml: reading the file, inheriting by `base:`, coercing by field type."""

import ast
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.plan.schema import nearest

Entry = dict[str, Any]
NAME = re.compile(r"[a-z][a-z0-9_]*")  # safe in file names and in a shell


class _UniqueKeys(yaml.SafeLoader):
    """YAML reader that refuses what Snakemake's and DVC's readers would read differently."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise UserError(f"params.yaml:{line}: anchors and aliases are not used here")
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            where = f"params.yaml:{key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise UserError(f"{where}: key {key!r} is not a word; quote or rename it")
            if key in seen:
                raise UserError(f"{where}: key {key} stands twice in one mapping")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path) -> Entry:
    """The file as nested mappings; one line of error for anything that is not one."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run from the folder that holds it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: must be a mapping of sections")
    return loaded


def section(params: Mapping[str, Any], name: str) -> dict[str, Entry]:
    """A section whose every value is a mapping."""
    entries = params.get(name, {})
    if not isinstance(entries, dict):
        raise UserError(f"params.yaml: {name}: must be a mapping")
    for key, entry in entries.items():
        if not NAME.fullmatch(key):
            raise UserError(
                f"params.yaml: {name}.{key}: a name is lower case letters, digits and _"
            )
        if not isinstance(entry, dict):
            raise UserError(f"params.yaml: {name}.{key}: must be a mapping, found {entry!r}")
    return entries


def inherit(entries: Mapping[str, Entry], kind: str, name: str) -> tuple[str, Entry]:
    """Root name of the `base:` chain (the component's file) and the merged entry."""
    chain: list[str] = []
    merged: Entry = {}
    current = name
    while True:
        if current in chain:
            raise UserError(f"params.yaml: {kind}.{name}: base: goes in a circle")
        if current not in entries:
            where = f"{kind}.{chain[-1]}.base" if chain else kind
            hint = nearest(current, entries)
            raise UserError(f"params.yaml: {where}: no entry {current!r}{hint}")
        chain.append(current)
        merged = {**entries[current], **merged}
        if "base" not in entries[current]:
            break
        current = str(entries[current]["base"])
    merged.pop("base", None)
    return chain[-1], merged


def fraction(value: Any, where: str) -> Fraction:
    """An exact number from 3, 0.031 or 8/255."""
    try:
        if isinstance(value, bool) or value is None:
            raise ValueError
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        return Fraction(str(value).replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{where}: {value!r} is not a number or a fraction such as 8/255") from None


def coerce(entry: Entry, types: Mapping[str, str], where: str, *, eps_factor: Fraction) -> Entry:
    """The entry with every value of its field's type; raises UserError by name.

    Radius fields are multiplied by `eps_factor`; a step written `eps/5` follows the entry's eps.
    A field of type Arguments holds the keys that are no fields.
    """
    if "Arguments" in types.values():
        return _with_arguments(entry, types, where, eps_factor)
    unknown = [k for k in entry if k not in types]
    if unknown:
        hint = nearest(unknown[0], types)
        raise UserError(f"params.yaml: {where}.{unknown[0]}: no such key{hint}")
    missing = [k for k in types if k not in entry]
    if missing:
        raise UserError(f"params.yaml: {where}: key {missing[0]} is missing; add it")
    eps = None
    if types.get("eps") == "Radius":
        eps = fraction(entry["eps"], f"params.yaml: {where}.eps") * eps_factor
    return {
        key: _value(entry[key], types[key], f"params.yaml: {where}.{key}", eps, eps_factor)
        for key in types
    }


def _with_arguments(
    entry: Entry, types: Mapping[str, str], where: str, eps_factor: Fraction
) -> Entry:
    """The entry of a component that hands unknown keys on to somebody else's constructor."""
    (name,) = [k for k, t in types.items() if t == "Arguments"]
    own = {k: t for k, t in types.items() if k != name}
    eps = None
    if "eps" in entry:
        eps = fraction(entry["eps"], f"params.yaml: {where}.eps") * eps_factor
    arguments = {
        key: _argument(value, key, f"params.yaml: {where}.{key}", eps, eps_factor)
        for key, value in entry.items()
        if key not in own
    }
    known = {k: v for k, v in entry.items() if k in own}
    return {**coerce(known, own, where, eps_factor=eps_factor), name: arguments}


def _argument(value: Any, key: str, where: str, eps: Fraction | None, factor: Fraction) -> Any:
    """A value of unknown type, as it is written; radii and lists of numbers are known."""
    if key in ("eps", "alpha"):
        return _radius(value, where, eps, factor)
    if isinstance(value, list):
        return [_argument(v, key + "[]", where, eps, factor) for v in value]
    if isinstance(value, str) and "/" in value:
        return _float(value, where)
    if isinstance(value, bool | int | float):
        return value
    return _word(value, where)


def _value(value: Any, kind: str, where: str, eps: Fraction | None, factor: Fraction) -> Any:
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise UserError(f"{where}: {value!r} is not a list")
        return [_value(v, kind[5:-1], where, eps, factor) for v in value]
    if kind.startswith("Literal["):
        return _literal(value, kind, where)
    if kind == "Radius":
        return _radius(value, where, eps, factor)
    if kind not in _SCALARS:
        raise UserError(f"{where}: the plan does not know field type {kind}")
    return _SCALARS[kind](value, where)


def _literal(value: Any, kind: str, where: str) -> Any:
    parsed = ast.literal_eval(kind[len("Literal") :])
    choices = parsed if isinstance(parsed, list) else [parsed]
    choices = list(choices[0]) if isinstance(choices[0], tuple) else choices
    if value not in choices:
        hint = nearest(str(value), choices)
        raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, choices))}{hint}")
    return value


def _radius(value: Any, where: str, eps: Fraction | None, factor: Fraction) -> float:
    text = str(value).replace(" ", "")
    if text.startswith("eps/") and eps is not None:
        return float(eps / fraction(text[4:], where))
    radius = float(fraction(value, where) * factor)
    if radius < 0:
        raise UserError(f"{where}: {value!r} is negative; a radius is at least 0")
    return radius


def _int(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: {value!r} is not a whole number")
    return value


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{where}: {value!r} is not true or false")
    return value


def _word(value: Any, where: str) -> str:
    is_word = isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum()
    if not is_word or not value.isascii():
        raise UserError(f"{where}: {value!r} is not a plain word")
    return str(value)


def _float(value: Any, where: str) -> float:
    return float(fraction(value, where))


_SCALARS: dict[str, Callable[[Any, str], Any]] = {
    "int": _int,
    "Epoch": _int,
    "float": _float,
    "bool": _bool,
    "str": _word,
    "Attack": _word,
    "Parent": _word,
    "Arch": _word,
}


def rescale(entry: Entry, types: Mapping[str, str], old: int, new: int) -> Entry:
    """Epoch fields when training takes `new` epochs instead of `old`: at least 1, order kept."""
    if old == new:
        return entry

    def scaled(epoch: int) -> int:
        return 0 if epoch == 0 else max(1, math.floor(epoch * new / old + 0.5))

    changed = dict(entry)
    for key, kind in types.items():
        if kind == "Epoch":
            changed[key] = scaled(entry[key])
        elif kind == "list[Epoch]":
            changed[key] = [scaled(e) for e in entry[key]]
    return changed


as_int = partial(_int)
as_word = partial(_word)
