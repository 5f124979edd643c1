"""What each definition of pipeline/ is and uses, from the source alone, across files.

Names are `core/losses.py:kl`, below pipeline/. What a file defines is remembered by its content,
so that a workflow's start and a job's end parse only what they have not seen.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.params.code import (
    NOT_EXECUTED,
    definitions,
    imports,
    is_source,
    parse,
    shape,
)
from pipeline.plan.params.schema import KINDS, ROOT
from pipeline.plan.params.words import digest
from pipeline.store.scratch import read_memo, write_scratch

SHARED = ("core", "contracts", "loading", "training", "evaluation")  # rooms that are in no name
JOBS = ("train.py", "average.py", "adopt.py", "transfer.py", "evaluate.py")
DEVICE = "job/device.py:select"  # arithmetic that repeats
MEMO = Path("work/shared.code")
KEPT = 1000  # files remembered, of several states of the code

Uses = dict[str, tuple[str, list[str]]]  # of a file, by name: its hash, and what it refers to


@cache
def files() -> dict[str, Uses]:
    """What the files of the shared rooms, of the components and of the jobs define, by file."""
    memo, base = read_memo(MEMO), ROOT / "pipeline"
    rooms = [base / room for room in (*SHARED, *KINDS)]
    paths = [p for room in rooms for p in sorted(room.glob("*.py")) if is_source(p.name)]
    paths += [base / name for name in (*JOBS, DEVICE.partition(":")[0])]

    found, known = dict[str, Uses](), dict[str, Uses]()
    for path in paths:
        name = path.relative_to(base).as_posix()
        key = f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        found[name] = known[key] = memo[key] if key in memo else _read(path, name)
    if known.keys() - memo.keys():
        older = {key: uses for key, uses in memo.items() if key not in known}
        text = json.dumps(dict([*older.items(), *known.items()][-KEPT:]))
        with suppress(UserError):  # it only spares parsing
            write_scratch(MEMO, text.encode())
    return found


def shared() -> dict[str, str]:
    """Hashes of all shared definitions."""
    known = files().items()
    every = {f"{file}:{name}": own for file, uses in known for name, (own, _) in uses.items()}
    return {name: own for name, own in sorted(every.items()) if is_shared(name)}


def is_shared(name: str) -> bool:
    """Whether a definition is in no component's hash, and decides what a job computes."""
    return name.partition("/")[0] in SHARED or name.partition(":")[0] in JOBS or name == DEVICE


def reach(starts: Iterable[str]) -> dict[str, str]:
    """Hashes of the shared definitions among some and all that they refer to."""
    known, reached = files(), dict[str, str]()
    wanted, seen = list(starts), set[str]()
    while wanted:
        name = wanted.pop()
        file, _, short = name.partition(":")
        if name in seen or short not in known.get(file, {}):
            continue
        seen.add(name)
        own, uses = known[file][short]
        wanted += uses
        if is_shared(name):
            reached[name] = own
    return dict(sorted(reached.items()))


# ---- one file


def _read(path: Path, name: str) -> Uses:
    """Of each top-level name its hash and the names of pipeline/ that it mentions."""
    defined, imported = definitions(parse(path)), _imported(path)
    found: Uses = {}
    for own, nodes in defined.items():
        mentioned = {pair for node in nodes for pair in _mentions(node)}
        uses = {u for pair in mentioned for u in _resolve(*pair, name, imported, defined.keys())}
        found[own] = digest(shape(nodes), 8), sorted(uses - {f"{name}:{own}"})
    return found


def _imported(path: Path) -> dict[str, str]:
    """What a file's names of pipeline/ are: a file there, or a definition in one."""
    base, found = ROOT / "pipeline", dict[str, str]()
    room = "pipeline" if path.parent == base else f"pipeline.{path.parent.name}"
    nodes = (n for n in ast.walk(parse(path)) if isinstance(n, ast.Import | ast.ImportFrom))
    for module, name, shown in (i for node in nodes for i in imports(node, room)):
        if module != "pipeline" and not module.startswith("pipeline."):
            continue
        place = module.removeprefix("pipeline").lstrip(".").replace(".", "/")
        inner = Path(place, str(name)).with_suffix(".py").as_posix()
        file = f"{place}.py" if (base / f"{place}.py").is_file() else f"{place}/__init__.py"
        is_module = name is not None and (base / inner).is_file()
        found[shown] = inner if is_module else file if name is None else f"{file}:{name}"
    return found


def _mentions(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Names that a node mentions outside annotations, each with the attribute asked of it."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield node.value.id, node.attr
    elif isinstance(node, ast.Name):
        yield node.id, ""
    else:
        for field, value in ast.iter_fields(node):
            if field not in NOT_EXECUTED:
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, ast.AST):
                        yield from _mentions(item)


def _resolve(
    name: str, attribute: str, file: str, imported: dict[str, str], defined: Iterable[str]
) -> Iterator[str]:
    """The definition that a mention is of, where that is one of pipeline/."""
    target = imported.get(name)
    if target is None:
        if name in defined:
            yield f"{file}:{name}"
    elif ":" in target:
        yield target
    elif attribute:
        yield f"{target}:{attribute}"
