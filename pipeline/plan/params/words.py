"""Words that the plan and those who ask it share: digests in names, and the nearest known name."""

import hashlib
import json
from difflib import get_close_matches
from typing import Any


def digest(value: Any, length: int = 10) -> str:
    """First `length` hex digits of sha256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def nearest(name: str, names: Any) -> str:
    """` (nearest: x)` for an error message, or the empty string."""
    close = get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""
