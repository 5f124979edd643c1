"""A hash of the code that decides what a component computes, from the source alone.

Two components that share a part keep it in `_part.py` of their room, and one component may be made
of others (AutoAttack of APGD, FAB and Square): what a class takes from files of its own room is
its code too. What all rooms share (pipeline/core, pipeline/training ...) is not; the numbers
`core:` of params.yaml stand for it.
"""

import ast
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params.words import digest

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# What components are made of beside their own room: versioned by `core:`, not by names
OPEN = ("contracts", "core", "errors", "raw")
OPEN_TO_FIGURES = (*OPEN, "evaluation", "flags", "loading", "plan", "tables")
NOT_EXECUTED = ("annotation", "returns", "type_comment", "kind", "ctx", "simple", "type_params")


def parse(path: Path) -> ast.Module:
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


def code_hash(path: Path, name: str) -> str:
    """Hash of class `name` of a file and of whatever it refers to in its room, directly or not.

    Comments, docstrings, formatting, annotations, positions and the order of unrelated
    definitions do not count, so reformatting retrains nothing. What a data set file needs only
    to fetch is not referred to by its class, so a new mirror changes no identity.
    The walk is our own because `ast.dump` differs between Python 3.11 and 3.13.
    """
    wanted, shapes = [(path, name)], dict[str, Any]()

    while wanted:
        file, current = wanted.pop()
        key = current if file == path else f"{file.stem}.{current}"
        state = file.stat().st_mtime_ns
        defined, imported = _defined_and_imported(file, state)

        # A name that is neither defined nor imported here is Python's, or of another room.
        if current in defined and key not in shapes:
            shapes[key], names = _shape_and_names(file, state, current)
            wanted += [imported.get(n, (file, n)) for n in names]
    return digest(shapes, 16)


@cache  # components of a room share files
def _defined_and_imported(path: Path, _mtime: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return definitions(parse(path)), _imports_from_room(path)


@cache
def _shape_and_names(path: Path, mtime: int, name: str) -> tuple[Any, set[str]]:
    nodes = _defined_and_imported(path, mtime)[0][name]
    return shape(nodes), {n for node in nodes for n in _names(node)}


def room_state(path: Path) -> tuple[object, ...]:
    """What changes when a file of the room of `path` does: names and times."""
    with os.scandir(path.parent) as files:
        found = [(f.name, f.stat().st_mtime_ns) for f in files if is_source(f.name)]
    return tuple(sorted(found))


def is_source(name: str) -> bool:
    """Whether a file's name is of Python source; Emacs and macOS leave others, such as `.#a.py`."""
    return name.endswith(".py") and not name.startswith(".")


def _imports_from_room(path: Path) -> dict[str, tuple[Path, str]]:
    """Names that a file imports from its own room: the file and the name there.

    Raises UserError when it imports a module, since then its names cannot be followed, and when
    it imports the project's code from where no name covers it.
    """
    room = f"pipeline.{path.parent.name}"
    imported = dict[str, tuple[Path, str]]()
    tree = parse(path)
    unread = {id(n) for block in ast.walk(tree) if _is_for_types(block) for n in ast.walk(block)}
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    for node in (n for n in nodes if id(n) not in unread):
        for module, name, shown in imports(node, room):
            if not f"{module}.".startswith(f"{room}."):
                _check_covered(path, node.lineno, module, name)
                continue
            if module == room or name in (None, "*"):
                raise UserError(
                    f"{path}:{node.lineno}: import names from files of {room}, not {name or module}"
                    ": what a component takes from its own room is part of its identity"
                )
            file = path.with_name(f"{module.removeprefix(f'{room}.')}.py")
            if not file.is_file():
                raise UserError(
                    f"{path}:{node.lineno}: {module} is no file of {room}; what components share "
                    f"lies in {path.with_name('_part.py')}, whatever you call it"
                )
            imported[shown] = file, str(name)
    return imported


def _is_for_types(node: ast.AST) -> bool:
    """Whether it is a block that type checkers alone read."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _check_covered(path: Path, line: int, module: str, name: str | None) -> None:
    """Raise UserError where a component imports code that no name covers: own code of the user's
    outside the component's room."""
    top, *inner = module.split(".")
    if top == "pipeline":
        rooms = OPEN_TO_FIGURES if path.parent.name == "figures" else OPEN
        is_covered = (inner[0] if inner else name) in rooms
    else:
        is_covered = not _lies_in(path.parents[2], top)
    if not is_covered:
        raise UserError(
            f"{path}:{line}: {module} is in no result's name, so an edit of it would go unseen; "
            f"write what you take from it in {path.with_name('_part.py')}, whatever you call it"
        )


def _lies_in(root: Path, module: str) -> bool:
    """Whether Python finds a module in the project's folder itself, as a file or as a folder."""
    spec = PathFinder.find_spec(module, [str(root), *sys.path])
    if spec is None:
        return False
    places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    return root in [place.parent for place in places]


def imports(node: ast.Import | ast.ImportFrom, room: str) -> Iterator[tuple[str, str | None, str]]:
    """Module, name there (None: the module itself) and name here of what a statement imports."""
    if isinstance(node, ast.Import):
        yield from ((a.name, None, a.asname or a.name) for a in node.names)
        return

    above = room.rsplit(".", node.level - 1)[0] if node.level else None
    module = ".".join(filter(None, (above, node.module)))
    yield from ((module, a.name, a.asname or a.name) for a in node.names)


def code_of(path: Path) -> str:
    """Hash of everything a file defines, for files that are not one component."""
    return _code_of(path, path.stat().st_mtime_ns)


@cache
def _code_of(path: Path, _mtime: int) -> str:
    defined = definitions(parse(path))
    return digest({n: shape(nodes) for n, nodes in sorted(defined.items())}, 16)


def definitions(tree: ast.Module) -> dict[str, list[ast.AST]]:
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


def shape(node: Any, *, in_class: bool = False) -> Any:
    """A node as nested lists of type names and non-empty fields: what executes, no more."""
    if isinstance(node, list):
        return [shape(n, in_class=in_class) for n in _without_idle(node, in_class)]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, ascii(node)]  # repr follows the version of Unicode
    if isinstance(node, ast.JoinedStr):  # 3.12 adds empty parts
        node = ast.JoinedStr(values=[v for v in node.values if not _is_empty(v)])
    if isinstance(node, ast.AnnAssign) and node.value and not in_class:  # there it makes a field
        node = ast.Assign(targets=[node.target], value=node.value)

    parts: list[Any] = [type(node).__name__]
    for field, value in ast.iter_fields(node):
        if field not in NOT_EXECUTED and value is not None:
            inner = shape(value, in_class=isinstance(node, ast.ClassDef))
            parts += [[field, inner]] if inner != [] else []
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
