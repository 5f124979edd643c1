"""What mkdocs needs besides docs/: pages that lie elsewhere, and links between them."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "pipeline/README.md": "map.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files, config):
    """The pages outside docs/, their links as seen from there."""
    for path, name in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=_relink(text, "")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links from docs/ to those pages."""
    return _relink(markdown, "../")


def _relink(text, before):
    for path, name in PAGES.items():
        text = text.replace(f"]({before}{path}", f"]({name}")
    return text
