"""docs/params.md is what the schema says today, and leaves out no key."""

from projects import ROOT, published

from pipeline.plan.params import entries
from pipeline.tools.keys import KEYS
from pipeline.tools.params import CHECKED, page


def test_the_page_is_todays():
    path = ROOT / "docs" / "params.md"
    assert path.read_text() == page(), "run: python -m pipeline params > docs/params.md"


def test_every_section_and_key_that_the_plan_takes_is_explained():
    assert set(KEYS) == set(entries.SECTIONS) >= set(published())
    for section, keys in CHECKED.items():
        assert set(KEYS[section][1]) == set(keys), section
    assert all(said[2] or said[0] for _, keys in KEYS.values() for said in keys.values())
