"""Which definitions of pipeline/ a part of the golden run used: no other is proven by its bytes."""

import ast
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from pipeline.plan.params import references
from pipeline.plan.params.code import DEFINITIONS, definitions, parse
from pipeline.plan.params.schema import ROOT

BASE = f"{ROOT / 'pipeline'}{os.sep}"


@contextmanager
def heard(names: set[str]) -> Iterator[None]:
    """Add the definitions whose code runs meanwhile, of a class any of its methods, in the spelling
    of references: `core/losses.py:kl`."""
    codes: dict[int, CodeType] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes[id(frame.f_code)] = frame.f_code

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
    for code in codes.values():
        if code.co_filename.startswith(BASE):
            names.add(f"{code.co_filename.removeprefix(BASE)}:{code.co_qualname.split('.')[0]}")


def with_constants(names: Iterable[str]) -> set[str]:
    """And what holds no function that could run, where one that ran refers to it: constants, types,
    classes of fields alone."""
    known, found, wanted = references.files(), set(names), list(names)
    while wanted:
        file, _, short = wanted.pop().partition(":")
        _, uses = known.get(file, {}).get(short, ("", []))
        new = {name for name in uses if name not in found and not _has_function(name)}
        found |= new
        wanted += new
    return found


def _has_function(name: str) -> bool:
    file, _, short = name.partition(":")
    nodes = definitions(parse(ROOT / "pipeline" / file)).get(short, [])
    functions = [n for node in nodes for n in ast.walk(node) if isinstance(n, DEFINITIONS[:2])]
    return bool(functions)
