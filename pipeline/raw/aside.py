"""Files and folders that are not the right ones: renamed to `<name>.bad`, and never replaced."""

import filecmp
import glob
import os
from itertools import count
from pathlib import Path


def keep_aside(path: Path, name: str) -> str:
    """Rename a file or folder to the first free one of `<name>.bad`, `<name>.1.bad` ...

    A file whose bytes are kept already takes that one's place, or each try would leave another.
    Returns where it is, in words that follow a message; nothing where it cannot be renamed.
    """
    kept = list_aside(path.with_name(name)) if path.is_file() else []
    same = (p for p in kept if filecmp.cmp(p, path, shallow=False))
    free = (path.with_name(f"{name}{f'.{n}' if n else ''}.bad") for n in count())
    aside = next(same, None) or next(p for p in free if not os.path.lexists(p))
    try:
        os.replace(path, aside)
    except OSError:
        return ""
    return f"; kept as {aside.name}"


def list_aside(path: Path) -> list[Path]:
    """The files that were kept as `<path>.bad`, `<path>.1.bad` ..."""
    names = (f"{glob.escape(path.name)}{end}" for end in (".bad", ".*.bad"))
    return sorted(p for name in names for p in path.parent.glob(name) if p.is_file())
