"""README and the pages of docs/: short enough, found from the front, no link or anchor dead."""

import re

import pytest
import yaml
from projects import ROOT, published

from pipeline.plan.params.schema import available
from pipeline.tools.methods import page

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pipeline/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
]


def prose(path):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """What its headings are called in links."""
    found = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in found]
    return {re.sub(r"\s", "-", heading) for heading in plain}


def links(path):
    """Targets and anchors of the links that stay in the project."""
    return re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(path))


def dead(path):
    """Links that lead nowhere."""
    there = [(path.parent / target if target else path, anchor) for target, anchor in links(path)]
    lost = [str(target) for target, _ in there if not target.exists()]
    return lost + [f"{t}#{a}" for t, a in there if t.exists() and a and a not in anchors(t)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_link_or_anchor_is_dead(path):
    assert dead(path) == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path):
    (tmp_path / "a.md").write_text("# A page\n## Two words, here\n[x](#two-words-here) [y](b.md)")
    (tmp_path / "c.md").write_text("[x](a.md#two-words) [y](a.md#a-page) [z](https://a.b#c)")
    assert dead(tmp_path / "a.md") == [f"{tmp_path}/b.md"]
    assert dead(tmp_path / "c.md") == [f"{tmp_path}/a.md#two-words"]


def test_the_readme_is_short():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120 and len(readme.split()) <= 1200


def test_every_page_is_linked_from_another_and_stands_in_the_site():
    linked = {(p.parent / t).resolve() for p in PAGES for t, _ in links(p) if t}
    pages = set(ROOT.glob("docs/*.md"))
    assert pages <= linked
    listed = re.findall(r"(\S+\.md)", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    assert {page.name for page in pages} <= set(listed) and len(listed) == len(set(listed))


def test_the_site_asks_nobody_else_for_fonts():
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]["font"] is False


def test_the_page_of_methods_is_todays_and_names_every_entry():
    text = (ROOT / "docs/methods.md").read_text()
    assert text == page(), "run: python -m pipeline methods > docs/methods.md"
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == available("methods")
    assert all(f"`{name}`" in text for name in published()["methods"])
