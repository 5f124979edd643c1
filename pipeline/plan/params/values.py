"""Values of params.yaml: inheriting by `base:`, coercing by field type, rescaling epochs."""

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params import ranges
from pipeline.plan.params.words import nearest

Entry = dict[str, Any]
NAME = re.compile(r"[a-z][a-z0-9_]*")  # safe in file names and in a shell
WORD = re.compile(r"[A-Za-z0-9_-]+")
RENAMED = {  # keys that had another name, by section; identity goes on under the old one
    "averages": {"of": "method"},
    "suites": {"leave": "stop_when_fooled"},
    "tables": {"apart": "on_request"},
}
LARGEST = 2**53  # of a count: beyond it JSON's readers differ
HUGE = 10**100  # products of two still are floats
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+|/[0-9]+)?")
NO_NUMBER = "is not a number or a fraction such as 8/255"


def section(params: Mapping[str, Any], name: str) -> dict[str, Entry]:
    """A section whose every value is a mapping."""
    entries = params.get(name, {})
    if not isinstance(entries, dict):
        raise UserError(f"params.yaml: {name}: must be a mapping")

    for key, entry in entries.items():
        where = f"params.yaml: {name}.{key}"
        if not NAME.fullmatch(key) or key == "none":
            raise UserError(f"{where}: a name is lower case letters, digits and _, and not none")
        if not isinstance(entry, dict):
            raise UserError(f"{where}: must be a mapping, found {entry!r}")

        for old, new in RENAMED.get(name, {}).items():
            if old in entry:
                raise UserError(f"{where}.{old}: is called {new} now; rename it")
    return entries


def find(entries: Mapping[str, Any], where: str, name: Any) -> str:
    """`name` as a name of `entries`; raises UserError with the nearest one."""
    if not isinstance(name, str) or name not in entries:
        raise UserError(f"params.yaml: {where}: no entry {name!r}{nearest(name, entries)}")
    return name


def only(entry: Mapping[str, Any], keys: Any, where: str, must: tuple[str, ...] = ()) -> None:
    """Raise UserError unless an entry has no keys but `keys`, and all of `must`."""
    for key in entry:
        if key not in keys:
            hint = nearest(key, keys) or f" (it takes {', '.join(sorted(map(str, keys)))})"
            raise UserError(f"params.yaml: {where}.{key}: no such key{hint}")
    for key in must:
        if key not in entry:
            raise UserError(f"params.yaml: {where}: key {key} is missing; add it")


def inherit(entries: Mapping[str, Entry], kind: str, name: str) -> tuple[str, Entry]:
    """Root name of the `base:` chain (the component's file) and the merged entry."""
    chain = [find(entries, kind, name)]
    merged = dict(entries[name])
    while "base" in entries[chain[-1]]:
        where = f"{kind}.{chain[-1]}.base"
        base = find(entries, where, entries[chain[-1]]["base"])
        if base in chain:
            raise UserError(f"params.yaml: {where}: goes in a circle")
        chain.append(base)
        merged = {**entries[base], **merged}
    merged.pop("base", None)
    return chain[-1], merged


def fraction(value: Any, where: str) -> Fraction:
    """An exact number from 3, 0.031 or 8/255; what a float cannot hold is refused."""
    is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
    number = _read_exactly(value) if is_number else f"{value!r} {NO_NUMBER}"
    if isinstance(number, str):
        raise UserError(f"{where}: {number}")
    return number


@lru_cache(maxsize=4096, typed=True)  # a plan reads the same few hundred thousands of times
def _read_exactly(value: float | str) -> Fraction | str:
    """The number that a text or a float's shortest text states, or what is wrong with it."""
    too_large = "is too large for a float"
    if isinstance(value, int) and abs(value) > HUGE:  # Python prints no more than 4300 digits
        return too_large
    try:
        text = value.replace(" ", "") if isinstance(value, str) else str(value)
        if isinstance(value, str) and not NUMBER.fullmatch(text):
            raise ValueError
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return f"{value!r} {NO_NUMBER}"
    return number if abs(number) <= HUGE else too_large


def find_radius(attacks: Iterable[tuple[str, Entry]]) -> float:
    """The smallest l_inf radius above 0 of a record's attacks, 0 where none has one."""
    fields = [spec["fields"] for _, spec in attacks]
    radii = [settings_of(f).get("eps") for f in fields if f.get("norm", "linf") == "linf"]
    return min((float(eps) for eps in radii if eps), default=0.0)


def settings_of(fields: Mapping[str, Any]) -> Entry:
    """An attack's settings, those of one behind the torchattacks adapter included."""
    own = {k: v for k, v in fields.items() if k != "arguments"}
    return {**own, **fields.get("arguments", {})}


def coerce(
    entry: Entry,
    types: Mapping[str, str],
    where: str,
    *,
    eps_factor: Fraction,
    ranges_of: Mapping[str, list[float]] | None = None,
) -> Entry:
    """The entry with every value of its field's type; raises UserError by name.

    ranges_of: least and most of fields of which their component says so.

    Radius fields are multiplied by `eps_factor`; a step written `eps/5` follows the entry's eps.
    A field of type Arguments holds the keys that are no fields.
    """
    if "Arguments" in types.values():
        return _with_arguments(entry, types, where, eps_factor, ranges_of)
    only(entry, types, where, must=tuple(types))
    eps = None
    if types.get("eps") == "Radius":
        eps = fraction(entry["eps"], f"params.yaml: {where}.eps") * eps_factor
    fields = {
        key: _value(entry[key], types[key], f"params.yaml: {where}.{key}", eps, eps_factor)
        for key in types
    }

    ranges.check(fields, types, entry, float(eps_factor), f"params.yaml: {where}", ranges_of)
    return fields


def _with_arguments(
    entry: Entry,
    types: Mapping[str, str],
    where: str,
    eps_factor: Fraction,
    ranges_of: Mapping[str, list[float]] | None,
) -> Entry:
    """The entry of a component that hands unknown keys on to somebody else's constructor."""
    (name,) = [k for k, t in types.items() if t == "Arguments"]
    own_types = {k: t for k, t in types.items() if k != name}
    eps = None
    if "eps" in entry:
        eps = fraction(entry["eps"], f"params.yaml: {where}.eps") * eps_factor

    arguments = {
        key: _argument(value, key, f"params.yaml: {where}.{key}", eps, eps_factor)
        for key, value in entry.items()
        if key not in own_types
    }
    ranges.check(arguments, {"eps": "Radius"}, entry, float(eps_factor), f"params.yaml: {where}")

    own_fields = {k: v for k, v in entry.items() if k in own_types}
    own = coerce(own_fields, own_types, where, eps_factor=eps_factor, ranges_of=ranges_of)
    return {**own, name: arguments}


def _argument(value: Any, key: str, where: str, eps: Fraction | None, factor: Fraction) -> Any:
    """A value of unknown type, as it is written; radii and lists of numbers are known."""
    if key in ("eps", "alpha"):
        return _radius(value, where, eps, factor)
    if isinstance(value, list | tuple):
        return [_argument(v, "", where, eps, factor) for v in value]
    if isinstance(value, str) and "/" in value:
        return _float(value, where)
    if isinstance(value, bool | int | float):
        return value
    return as_word(value, where)


def _value(value: Any, kind: str, where: str, eps: Fraction | None, factor: Fraction) -> Any:
    if kind.startswith("list["):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {value!r} is not a list")
        return [_value(v, kind[5:-1], where, eps, factor) for v in value]
    if kind.startswith("Literal["):
        return _literal(value, kind, where)
    if kind == "Radius":
        return _radius(value, where, eps, factor)
    if kind not in _SCALARS:
        raise UserError(f"{where}: the plan does not know field type {kind}")
    return _SCALARS[kind](value, where)


@cache
def _choices(kind: str) -> tuple[Any, ...]:
    choices: tuple[Any, ...] = ast.literal_eval(f"({kind[len('Literal[') : -1]},)")
    return choices


def _literal(value: Any, kind: str, where: str) -> Any:
    choices = _choices(kind)
    for choice in choices:
        if choice == value and type(choice) is type(value):
            return choice
    listed = ", ".join(map(str, choices))
    raise UserError(f"{where}: {value!r} is not one of {listed}{nearest(value, choices)}")


def _radius(value: Any, where: str, eps: Fraction | None, factor: Fraction) -> float:
    text = str(value).replace(" ", "")
    if text.startswith("eps/") and eps is not None:
        divisor = fraction(text.removeprefix("eps/"), where)
        if divisor < 1:
            raise UserError(f"{where}: {value!r} is no part of eps; write eps/5 or such")
        return float(eps / divisor)

    radius = float(fraction(value, where) * factor)
    if radius < 0:
        raise UserError(f"{where}: {value!r} is negative; a radius is at least 0")
    return radius


def as_int(value: Any, where: str, least: int = 0) -> int:
    """A count: a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: {value!r} is not a whole number")
    if value < least:
        raise UserError(f"{where}: {value} is too few; write {least} or more")
    if value > LARGEST:
        raise UserError(f"{where}: {value} is not between {least} and {LARGEST}")
    return value


def as_path(value: Any, where: str) -> str:
    """A file or folder."""
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {value!r} is no path of a file or folder, nor none")
    return value


def as_word(value: Any, where: str) -> str:
    """A plain word: letters, digits, _ and -."""
    if not isinstance(value, str) or not WORD.fullmatch(value):
        raise UserError(f"{where}: {value!r} is not a plain word")
    return value


def as_bool(value: Any, where: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise UserError(f"{where}: {value!r} is not true or false")
    return value


def _float(value: Any, where: str) -> float:
    return float(fraction(value, where))


_SCALARS: dict[str, Callable[[Any, str], Any]] = {
    "int": as_int,
    "Epoch": as_int,
    "float": _float,
    "bool": as_bool,
    "str": as_word,
    "Attack": as_word,
    "Parent": as_word,
    "Start": as_word,
    "Place": as_path,
    "Earlier": as_word,
    "Arch": as_word,
}


def rescale(entry: Entry, types: Mapping[str, str], old: int, new: int) -> Entry:
    """Epoch fields when training takes `new` epochs instead of `old`: at least 1, halves up.

    0 is no epoch but "from the start", and stays.
    """
    if old == new:
        return entry

    def scaled(epoch: int) -> int:
        return 0 if epoch == 0 else max(1, math.floor(Fraction(epoch * new, old) + Fraction(1, 2)))

    changed = dict(entry)
    for key, kind in types.items():
        if kind == "Epoch":
            changed[key] = scaled(entry[key])
        elif kind == "list[Epoch]":
            changed[key] = [scaled(e) for e in entry[key]]
    return changed
