"""The text of params.yaml and of the papers' pages, merged.

One reading of every value, by Snakemake's, DVC's and our reader.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.plan.params.pages import PAGES, pages
from pipeline.plan.params.scale import NAMES

PARAMS = "params.yaml"
ALONE = ("scale", "mirror", "core", "planned")  # of all papers, so in params.yaml
KINDS = {"map", "seq", "str", "int", "float", "bool"}
PLAIN = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+(e[-+][0-9]+)?"),
    "bool": re.compile("true|false"),
}
# unquoted words that DVC's reader (YAML 1.2) takes for numbers and Snakemake's (1.1) does not
ODD = re.compile(r"[-+]?[0-9_.][0-9_.]*([eE][-+]?[0-9]+)?|[-+]?_+|[-+]?0[box][0-9a-fA-F_]+")
LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # ten times as fast
DEEPEST = 50  # levels of mappings and lists in one another
MOST = 1_000_000  # bytes of a file; params.yaml has some 40,000
GRAMMAR = "write 12, 0.0001, 8/255, true, false, none, or quote a word"


def read(path: Path) -> dict[str, Any]:
    """params.yaml with the entries of the pages beside it.

    Raises UserError with the line for whatever is no such thing, and for a name in two files.
    """
    merged: dict[str, Any] = {}
    files = _load_all(path)
    papers = [Path(name).stem for name in files if name != PARAMS]

    for name, sections in files.items():
        _check_owners(name, sections, papers)
        if name != PARAMS:
            _check_page(name, sections)
        for keys, value in _entries(sections):
            _add(merged, keys, value, name, files)
    return merged


def located(error: str, path: Path) -> str:
    """A line about an entry of params.yaml, with the page it stands on in the place of that."""
    named = re.match(r"params\.yaml: ([\w.]+)", error)
    keys = named[1].split(".") if named else []
    entry = keys[: 4 if keys[:1] == ["scales"] else 2]
    holders = [name for name, sections in _load_all(path).items() if _holds(sections, entry)]
    return error.replace(PARAMS, holders[0], 1) if holders else error


def _holds(sections: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(sections, dict) or key not in sections:
            return False
        sections = sections[key]
    return True


def _load_all(path: Path) -> dict[str, dict[str, Any]]:
    """Every file's sections, by the name that errors have for it."""
    files = {PARAMS: _load(path, PARAMS)}
    for page in pages(path):
        name = f"{PAGES}/{page.name}"
        files[name] = _load(page, name)
    return files


def _check_page(name: str, sections: dict[str, Any]) -> None:
    """Raise UserError for what a page says of other papers.

    DVC builds a paper again when its page or params.yaml changes, and for no other reason.
    """
    for key in ALONE:
        if key in sections:
            raise UserError(f"{name}: {key}: concerns every paper; write it in params.yaml")
    for (_, *keys), _ in _entries(_mapping(sections.get("scales")), ("scales",)):
        kind, entry = NAMES.get("".join(keys[1:2])), "".join(keys[2:])
        if entry not in _mapping(sections.get(kind or "")):
            where = ".".join(["scales", *keys])
            raise UserError(f"{name}: {where}: cuts no entry of this page; write it in params.yaml")


def _check_owners(name: str, sections: dict[str, Any], papers: list[str]) -> None:
    """Raise UserError unless every table and figure of a paper stands on its page, and no other."""
    own = None if name == PARAMS else Path(name).stem
    for kind in ("tables", "figures"):
        for entry in _mapping(sections.get(kind)):
            owner = next((p for p in papers if entry.startswith(f"{p}_")), None)
            if owner != own:
                place = f"{PAGES}/{owner}.yaml" if owner else PARAMS
                raise UserError(f"{name}: {kind}.{entry}: move it to {place}, or rename it")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(sections: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys and value of every entry, of every cut of a scale, of every section that is neither."""
    depth = 4 if at[:1] == ("scales",) else 2
    for key, value in sections.items():
        if isinstance(value, dict) and value and len(at) + 1 < depth:
            yield from _entries(value, (*at, key))
        else:
            yield (*at, key), value


def _add(
    merged: dict[str, Any], keys: tuple[str, ...], value: Any, name: str, files: dict[str, Any]
) -> None:
    """Put an entry in its place, which must be free."""
    place: Any = merged
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        taken = key in place and not (isinstance(place[key], dict) and (not last or value == {}))
        if taken:
            other = next(f for f in files if _holds(files[f], list(keys[: depth + 1])))
            where = ".".join(keys[: depth + 1])
            raise UserError(f"{name}: {where}: stands in {other} too; keep one, or rename one")
        place = place.setdefault(key, value if last and value != {} else {})


def _load(path: Path, name: str) -> dict[str, Any]:
    """One file as nested mappings."""
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"{path}: holds more than {MOST / 1e6:g} MB, which is no plan; cut it")
        loaded = _parse(path.read_text(encoding="utf-8"), name)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run from the folder that holds it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise UserError(f"{path}{line}: not valid YAML: {reason or type(error).__name__}") from None

    if not isinstance(loaded, dict):
        raise UserError(f"{path}: must be a mapping of sections")
    return loaded


def _parse(text: str, name: str) -> Any:
    """The one document of a text; refuses what other readers of YAML read differently, and keys
    that stand twice."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            where = _place(name, event)
            raise UserError(
                f"{where}: anchors and aliases are not used here; write the value again"
            )

        # Composing is recursive, in C without a limit.
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{_place(name, event)}: is nested in more than {DEEPEST} levels")

    root = yaml.compose(text, Loader=LOADER)
    if root is None:
        return None
    _check_node(root, name)
    return LOADER("").construct_document(root)


def _check_node(node: Any, name: str) -> None:
    """Raise UserError unless all readers take a node, and what it holds, for the same value."""
    kind = node.tag.rpartition(":")[2]
    is_scalar = isinstance(node, yaml.ScalarNode)
    if kind not in KINDS:
        what = repr(node.value) if is_scalar else f"a {kind}"
        raise UserError(f"{_place(name, node)}: {what} is no value here: {GRAMMAR}")

    if is_scalar:
        if not _is_plain(kind, node):
            different = f"{node.value} is read differently by different tools"
            raise UserError(f"{_place(name, node)}: {different}: {GRAMMAR}")
        return

    seen = set()
    for item in node.value:
        key_node, value = item if kind == "map" else (None, item)
        if key_node:
            _check_node(key_node, name)
            key = key_node.value
            if not key_node.tag.endswith(":str") or not key.isprintable():
                read = LOADER("").construct_object(key_node, deep=True)
                said = f"key {read!r} is not a word; quote or rename it"
                raise UserError(f"{_place(name, key_node)}: {said}")
            if key in seen:
                said = f"key {key} stands twice in one mapping; keep one"
                raise UserError(f"{_place(name, key_node)}: {said}")
            seen.add(key)
        _check_node(value, name)


def _is_plain(kind: str, node: Any) -> bool:
    """Whether every reader takes a scalar for what ours does."""
    if kind == "str":
        return bool(node.style) or not ODD.fullmatch(node.value)
    return PLAIN[kind].fullmatch(node.value) is not None


def _place(name: str, part: Any) -> str:
    return f"{name}:{part.start_mark.line + 1}"
