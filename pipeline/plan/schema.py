"""Components read from their source: fields, and a hash of the code that defines them.

Nothing is imported, so the graph is built without torch. A component is the one public class of
`pipeline/<kind>/<name>.py`; its annotated fields (and those of its bases) are the keys its entry
in params.yaml must have.
"""

import ast
import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("archs", "datasets", "attacks", "methods", "averages")


@dataclass(frozen=True)
class Component:
    """What the plan knows of a component: `types` maps field to annotation source."""

    kind: str
    name: str
    types: dict[str, str]
    code: str


def digest(value: Any, length: int = 10) -> str:
    """First `length` hex digits of sha256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def nearest(name: str, names: Any) -> str:
    """` (nearest: x)` for an error message, or the empty string."""
    close = get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""


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
    return _component(kind, name, str(path), path.stat().st_mtime_ns)


@cache
def _component(kind: str, name: str, path: str, _mtime: int) -> Component:
    tree = _parse(Path(path))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    if len(classes) != 1:
        found = ", ".join(c.name for c in classes) or "none"
        raise UserError(f"{path}: a component file has one public class (found: {found})")
    return Component(kind, name, _fields(classes[0], tree), code_hash(tree, classes[0].name))


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from error


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
                fields[item.target.id] = annotation
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
        if current in seen or current not in defined:
            continue
        seen.add(current)
        wanted += [n.id for n in ast.walk(defined[current]) if isinstance(n, ast.Name)]
    return digest({n: _shape(defined[n]) for n in sorted(seen)}, 16)


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """Top-level names of a file: functions, classes, constants."""
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign):
            defined |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined[node.target.id] = node
    return defined


def _shape(node: Any) -> Any:
    """A node as nested lists of type names and non-empty fields: what executes, no more."""
    if isinstance(node, list):
        return [_shape(n) for n in node]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, repr(node)]
    parts: list[Any] = [type(node).__name__]
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment", "kind", "ctx", "type_params"):
            continue
        if field == "body" and isinstance(value, list):
            value = _without_docstring(value)
        if value is not None and value != []:
            parts.append([field, _shape(value)])
    return parts


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return body[1:] if is_text else body


def code_of(path: Path) -> str:
    """Hash of everything a file defines, for files that are not one component."""
    tree = _parse(path)
    return digest({n: _shape(node) for n, node in sorted(_definitions(tree).items())}, 16)
