"""The text of params.yaml: one reading of every value, by Snakemake's, DVC's and our reader."""

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

KINDS = {"map", "seq", "str", "int", "float", "bool"}
PLAIN = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+(e[-+][0-9]+)?"),
    "bool": re.compile("true|false"),
}
# unquoted words that DVC's reader (YAML 1.2) takes for numbers and Snakemake's (1.1) does not
ODD = re.compile(r"[-+]?[0-9_.][0-9_.]*([eE][-+]?[0-9]+)?|[-+]?_+|[-+]?0[box][0-9a-fA-F_]+")
GRAMMAR = "write 12, 0.0001, 8/255, true, false, none, or quote a word"


def read(path: Path) -> dict[str, Any]:
    """The file as nested mappings; raises UserError with the line for whatever is no such thing."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
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


class _Strict(yaml.SafeLoader):
    """Refuses what other readers of YAML read differently, and what nobody reads twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.events.AliasEvent) or event.anchor is not None:
            raise _refusal(event, "anchors and aliases are not used here; write the value again")
        node: Any = super().compose_node(parent, index)
        kind = node.tag.rpartition(":")[2]
        is_scalar = isinstance(node, yaml.ScalarNode)
        if kind not in KINDS:
            what = repr(node.value) if is_scalar else f"a {kind}"
            raise _refusal(node, f"{what} is no value here: {GRAMMAR}")
        if is_scalar and not _is_plain(kind, node):
            raise _refusal(node, f"{node.value} is read differently by different tools: {GRAMMAR}")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or not key.isprintable():
                raise _refusal(key_node, f"key {key!r} is not a word; quote or rename it")
            if key in seen:
                raise _refusal(key_node, f"key {key} stands twice in one mapping; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _is_plain(kind: str, node: Any) -> bool:
    """Whether every reader takes a scalar for what ours does."""
    if kind == "str":
        return node.style is not None or not ODD.fullmatch(node.value)
    return PLAIN[kind].fullmatch(node.value) is not None


def _refusal(place: Any, what: str) -> UserError:
    return UserError(f"params.yaml:{place.start_mark.line + 1}: {what}")
