"""Components read from their source: fields, and a hash of the code that defines them.

Nothing is imported, so the graph is built without torch. A component is the one public class of
`pipeline/<kind>/<name>.py`; its annotated fields (and those of its bases) are the keys its entry
in params.yaml must have.
"""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params.words import digest, nearest

ROOT = Path(__file__).resolve().parents[3]
EQUAL = "pipeline/share/equal.json"  # code proven equal to older code
KINDS = ("archs", "datasets", "attacks", "methods", "averages")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NOT_EXECUTED = ("annotation", "returns", "type_comment", "kind", "ctx", "simple", "type_params")


@dataclass(frozen=True)
class Component:
    """What the plan knows of a component: `types` maps field to annotation source."""

    kind: str
    name: str
    types: dict[str, str]
    code: str


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
    found = _component(kind, name, str(path), path.stat().st_mtime_ns)
    return replace(found, code=_identity(root, f"{kind}/{name}", found.code))


def raw_code(kind: str, name: str) -> str:
    """The hash of a component's code as it stands, whatever it was proven equal to."""
    path = ROOT / "pipeline" / kind / f"{name}.py"
    component(kind, name)
    return _component(kind, name, str(path), path.stat().st_mtime_ns).code


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
def _component(kind: str, name: str, path: str, _mtime: int) -> Component:
    tree = _parse(Path(path))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    if len(classes) != 1:
        found = ", ".join(c.name for c in classes) or "none"
        raise UserError(f"{path}: a component file has one public class (found: {found})")
    return Component(kind, name, _fields(classes[0], tree), code_hash(tree, classes[0].name))


def _parse(path: Path) -> ast.Module:
    """The source's tree, read again only when the file has changed."""
    return _tree(path, path.stat().st_mtime_ns)


@cache
def _tree(path: Path, _mtime: int) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))  # bytes: no locale's encoding
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:  # a null byte
        raise UserError(f"{path}: is not Python source: {error}") from None


def class_fields(path: Path, name: str) -> dict[str, str]:
    """Annotated fields of one class, its bases in other pipeline files included."""
    tree = _parse(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _fields(node, tree)
    raise UserError(f"{path}: no class {name}")


def _fields(node: ast.ClassDef, tree: ast.Module) -> dict[str, str]:
    fields: dict[str, str] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            fields |= _base_fields(base.id, tree)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            annotation = ast.unparse(item.annotation)
            if not annotation.startswith("ClassVar"):
                fields[item.target.id.removesuffix("_")] = annotation  # `class_` is key `class`
    return fields


def _base_fields(name: str, tree: ast.Module) -> dict[str, str]:
    """Fields of a base class that this file defines or imports from the pipeline."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _fields(node, tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    path = ROOT.joinpath(*str(node.module).split(".")).with_suffix(".py")
                    return class_fields(path, alias.name)
    return {}


def code_hash(tree: ast.Module, name: str) -> str:
    """Hash of class `name` and of whatever else in its file it refers to, directly or not.

    Comments, docstrings, formatting, annotations, positions and the order of unrelated
    definitions do not count, so reformatting retrains nothing. What a data set file needs only
    to fetch is not referred to by its class, so a new mirror changes no identity.
    The walk is our own because `ast.dump` differs between Python 3.11 and 3.13.
    """
    defined = _definitions(tree)
    wanted, seen = [name], set[str]()
    while wanted:
        current = wanted.pop()
        if current in defined and current not in seen:
            seen.add(current)
            wanted += [n for node in defined[current] for n in _names(node)]
    return digest({n: _shape(defined[n]) for n in sorted(seen)}, 16)


def code_of(path: Path) -> str:
    """Hash of everything a file defines, for files that are not one component."""
    return _code_of(path, path.stat().st_mtime_ns)


@cache
def _code_of(path: Path, _mtime: int) -> str:
    defined = _definitions(_parse(path))
    return digest({n: _shape(nodes) for n, nodes in sorted(defined.items())}, 16)


def _definitions(tree: ast.Module) -> dict[str, list[ast.AST]]:
    """Top-level names of a file, each with every statement that may decide what it is."""
    defined: dict[str, list[ast.AST]] = {}
    for node in _without_idle(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            renamed = {a.asname: a.name.rpartition(".")[2] for a in node.names if a.asname}
            for name, real in renamed.items():  # another thing under the same name is a change
                if name != real:
                    defined.setdefault(name, []).append(ast.Constant(real))
        else:
            for name in _bound(node):
                defined.setdefault(name, []).append(node)
    return defined


def _bound(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds; those it mentions when it is a call or a branch."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {n for target in targets for n in _names(target)}
    inner = {n.name for n in ast.walk(node) if isinstance(n, DEFINITIONS)}
    return inner | set(_names(node))


def _names(node: ast.AST) -> Iterator[str]:
    """Names that a node mentions outside annotations."""
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in NOT_EXECUTED:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, ast.AST):
                    yield from _names(item)


def _shape(node: Any, *, in_class: bool = False) -> Any:
    """A node as nested lists of type names and non-empty fields: what executes, no more."""
    if isinstance(node, list):
        return [_shape(n, in_class=in_class) for n in _without_idle(node, in_class)]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, ascii(node)]  # repr follows the version of Unicode
    if isinstance(node, ast.JoinedStr):  # 3.12 adds empty parts
        node = ast.JoinedStr(values=[v for v in node.values if not _is_empty(v)])
    if isinstance(node, ast.AnnAssign) and node.value and not in_class:  # there it makes a field
        node = ast.Assign(targets=[node.target], value=node.value)
    parts: list[Any] = [type(node).__name__]
    for field, value in ast.iter_fields(node):
        if field not in NOT_EXECUTED and value is not None:
            shape = _shape(value, in_class=isinstance(node, ast.ClassDef))
            parts += [[field, shape]] if shape != [] else []
    return parts


def _without_idle(nodes: list[Any], in_class: bool = False) -> list[Any]:
    """Without docstrings, `...`, pass and bare annotations, which only make fields."""
    return [
        node
        for node in nodes
        if not isinstance(node, ast.Pass)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.AnnAssign) and node.value is None and not in_class)
    ]


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""
