"""Which files hold the plan: standard library alone, for those that must not load PyYAML."""

from pathlib import Path

PAGES = "papers"  # folder beside params.yaml: a page for each paper


def pages(path: Path) -> list[Path]:
    """The papers' pages that belong to a params.yaml, in the order of their names."""
    files = (path.parent / PAGES).glob("*.yaml")
    return sorted(p for p in files if not p.name.startswith("."))
