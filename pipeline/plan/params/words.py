"""Words that the plan and those who ask it share: digests in names, and the nearest known name."""

import hashlib
import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pipeline.errors import UserError


def digest(value: Any, length: int = 10) -> str:
    """First `length` hex digits of sha256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def nearest(name: str, names: Any) -> str:
    """` (nearest: x)` for an error message, or the empty string."""
    close = get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""


def unique(beginning: str, known: Iterable[str]) -> str | None:
    """The one name that begins so, as git finds commits; None where none does.

    Raises UserError where several do.
    """
    begun = sorted({name for name in known if name.startswith(beginning)}) if beginning else []
    if len(begun) > 1:
        some = ", ".join(begun[:3]) + (", ..." if len(begun) > 3 else "")
        raise UserError(f"{beginning}: {len(begun)} names begin so; write more of one: {some}")
    return begun[0] if begun else None
