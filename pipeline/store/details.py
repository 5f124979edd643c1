"""run.json: what a finished run says of itself, read by whoever adds up costs or records it."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store import manifest

NAME = "run.json"


def details(folder: Path) -> dict[str, Any]:
    """id, spec, flops and inherited (FLOPs of parents, by run) of a run's folder.

    Raises UserError when the file is not the one that was recorded or written, or is none.
    """
    path = folder / NAME
    manifest.verify(path)
    try:
        about = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; pull {folder} or make it again") from None
    except (ValueError, RecursionError):
        about = None

    if not _is_whole(about) or about["id"] != folder.name:
        raise UserError(f"{path}: describes no run, or another one; delete {folder}, make it again")
    return dict(about)


def _is_whole(about: Any) -> bool:
    """Whether it has its keys, each of its type, and counts that can be."""
    if not isinstance(about, dict) or not {"id", "spec", "flops", "inherited"} <= set(about):
        return False
    if not isinstance(about["spec"], dict) or not isinstance(about["inherited"], dict):
        return False

    counts = [about["flops"], *about["inherited"].values()]
    # JSON's true is an int to Python.
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
