"""Components read from their source: fields, and a hash of the code that defines them (code.py).

Nothing is imported, so the graph is built without torch. A component is the one public class of
`pipeline/<kind>/<name>.py`; its annotated fields (and those of its bases) are the keys its entry
in params.yaml must have. A key whose field has a value in the class may be left out, and is in no
name while it has that value: an option that a component gains renames nothing.
"""

import ast
import hashlib
import json
import keyword
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params import classes
from pipeline.plan.params.code import code_hash, is_source, parse, room_state
from pipeline.plan.params.words import nearest
from pipeline.store.scratch import read_memo, write_scratch

ROOT = Path(__file__).resolve().parents[3]
EQUAL = "pipeline/share/equal.json"  # code proven equal to older code
MEMO = "work/components.code"
KINDS = ("archs", "datasets", "attacks", "methods", "averages")


@dataclass(frozen=True)
class Component:
    """What the plan knows of a component: `types` maps field to annotation source.

    `usual` has the values of the fields that an entry need not state; `ranges` the least and the
    most of those whose class says so.
    """

    kind: str
    name: str
    types: dict[str, str]
    code: str
    usual: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, list[float]] = field(default_factory=dict)


def available(kind: str, root: Path = ROOT) -> list[str]:
    """Names of the components of one kind: the files of its folder."""
    return sorted(p.stem for p in (root / "pipeline" / kind).glob("[a-z]*.py"))


def component(kind: str, name: str, root: Path = ROOT) -> Component:
    """Read one component; raises UserError when its file is missing or has not one class."""
    path = root / "pipeline" / kind / f"{name}.py"
    if not path.is_file():
        hint = nearest(name, available(kind, root))
        raise UserError(
            f"params.yaml: {kind}.{name}: no file pipeline/{kind}/{name}.py{hint}; "
            "write it, or give the entry `base:`"
        )

    state = room_state(path)
    known = _remembered(root).get((kind, name, state))
    read = known or _component(kind, name, path, state)
    return replace(read, code=_identity(root, f"{kind}/{name}", read.code))


def raw_code(kind: str, name: str) -> str:
    """The hash of a component's code as it stands, whatever it was proven equal to."""
    path = ROOT / "pipeline" / kind / f"{name}.py"
    component(kind, name)
    return _component(kind, name, path, room_state(path)).code


def _identity(root: Path, name: str, code: str) -> str:
    """The code hash that counts: that of the oldest code this one was proven equal to."""
    path = root / EQUAL
    known = _equal(str(path), path.stat().st_mtime_ns) if path.exists() else {}
    return known.get(name, {}).get(code, code)


@cache
def _equal(path: str, _mtime: int) -> dict[str, dict[str, str]]:
    try:
        loaded = json.loads(Path(path).read_text())
        return {c: {new: str(e["as"]) for new, e in m.items()} for c, m in loaded.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: cannot be read; git checkout it") from None


@cache
def _remembered(root: Path) -> dict[tuple[object, ...], Component]:
    """Every component of a tree, by the state of its room when this process began.

    Kept from the last process that saw the same code, to the byte: half of a plan is parsing.
    """
    summed, kept = _sum_code(root), read_memo(root / MEMO)
    if kept.get("code") != summed:
        kept = {"code": summed, "components": _read_all(root)}
        text = json.dumps(kept)
        if json.loads(text) == kept:  # a default that JSON does not know is read anew
            with suppress(UserError):  # it only spares parsing
                write_scratch(root / MEMO, text.encode())

    states = {kind: room_state(root / "pipeline" / kind / "any") for kind in KINDS}
    read = [Component(**fields) for fields in kept["components"]]
    return {(c.kind, c.name, states[c.kind]): c for c in read}


def _read_all(root: Path) -> list[dict[str, Any]]:
    found = []
    for kind in KINDS:
        for name in available(kind, root):
            path = root / "pipeline" / kind / f"{name}.py"
            with suppress(UserError):  # said when it is asked for
                found.append(vars(_component(kind, name, path, room_state(path))))
    return found


def _sum_code(root: Path) -> str:
    """A hash of all source of the pipeline, of the Python that parses it, and of which modules
    lie beside it, that no component may import."""
    beside = [path for pattern in ("*.py", "*/__init__.py") for path in root.glob(pattern)]
    names = sorted(path.relative_to(root).as_posix() for path in beside)
    whole = hashlib.sha256(repr([*sys.version_info[:2], *names]).encode())
    for folder, folders, files in os.walk(root / "pipeline"):
        folders.sort()
        for name in sorted(filter(is_source, files)):
            path = os.path.join(folder, name)
            whole.update(os.path.relpath(path, root).encode() + b"\0")
            whole.update(Path(path).read_bytes() + b"\0")
    return whole.hexdigest()


@cache
def _component(kind: str, name: str, path: Path, _room: tuple[object, ...]) -> Component:
    node, tree = _public_class(path)
    code = code_hash(path, node.name)
    chain, types = [found for found, _ in _chain(node, tree)], _fields(node, tree)
    usual, ranges = _usual(node, tree, path), classes.read_ranges(chain, types, path)
    classes.check(kind, path, chain, types, usual)
    return Component(kind, name, types, code, usual, ranges)


def _public_class(path: Path) -> tuple[ast.ClassDef, ast.Module]:
    tree = parse(path)
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    if len(found) != 1:
        names = ", ".join(c.name for c in found) or "none"
        raise UserError(f"{path}: a component file has one public class (found: {names})")
    return found[0], tree


def _chain(node: ast.ClassDef, tree: ast.Module) -> Iterator[tuple[ast.ClassDef, ast.Module]]:
    """A class and its bases, theirs included, the nearest first."""
    yield node, tree
    for base in _bases(node, tree):
        yield from _chain(*base)


def class_fields(path: Path, name: str) -> dict[str, str]:
    """Annotated fields of one class, its bases in other pipeline files included."""
    return _fields(*_class(path, name))


def writes_step(method: str) -> bool:
    """Whether a method has a `step` of its own, or of a base that is not the contract."""
    chain = _chain(*_public_class(ROOT / "pipeline" / "methods" / f"{method}.py"))
    contract = classes.BASES["methods"]
    return any(classes.writes(node, "step") for node, _ in chain if node.name != contract)


def _class(path: Path, name: str) -> tuple[ast.ClassDef, ast.Module]:
    tree = parse(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree
    raise UserError(f"{path}: no class {name}")


def _fields(node: ast.ClassDef, tree: ast.Module) -> dict[str, str]:
    fields: dict[str, str] = {}
    for base in _bases(node, tree):
        fields |= _fields(*base)

    # Own fields after the bases': a redefined one replaces its type, as Python has it.
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            annotation = ast.unparse(item.annotation)
            if not annotation.startswith("ClassVar"):
                fields[_key(item.target.id)] = annotation
    return fields


def _key(field: str) -> str:
    """The key of a field in params.yaml: `class` of `class_`, which Python keeps for itself."""
    key = field.removesuffix("_")
    return key if keyword.iskeyword(key) else field


def _bases(node: ast.ClassDef, tree: ast.Module) -> list[tuple[ast.ClassDef, ast.Module]]:
    """The base classes that this file defines or imports from the pipeline, with their files."""
    names = {base.id for base in node.bases if isinstance(base, ast.Name)}
    found = []
    for item in tree.body:
        if isinstance(item, ast.ClassDef) and item.name in names:
            found.append((item, tree))
        if isinstance(item, ast.ImportFrom) and (item.module or "").startswith("pipeline."):
            path = ROOT.joinpath(*str(item.module).split(".")).with_suffix(".py")
            shown = [alias.name for alias in item.names if (alias.asname or alias.name) in names]
            found += [_class(path, name) for name in shown]
    return found


def _usual(node: ast.ClassDef, tree: ast.Module, path: Path) -> dict[str, Any]:
    """The values that a class, or a base of it, gives to its fields, written as they are."""
    found: dict[str, Any] = {}
    for base in _bases(node, tree):
        found |= _usual(*base, path)

    for item in node.body:
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        key = _key(item.target.id)
        if item.value and not ast.unparse(item.annotation).startswith("ClassVar"):
            where, is_method = f"{path}: {node.name}.{key}", path.parent.name == "methods"
            found[key] = classes.read_default(item, key, where, is_method=is_method)
    return found
