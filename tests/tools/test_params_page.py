"""docs/params.md is what the schema says today, and leaves out no key."""

import runpy

import pytest
from projects import ROOT, published

from pipeline.plan.graph import (
    audit,
    averages,
    figures,
    outside,
    runs,
    suites,
    table_entries,
    victims,
)
from pipeline.plan.params import checks, entries, scale, schema
from pipeline.tools.keys import KEYS
from pipeline.tools.params import page

CHECKED = {  # the keys that the plan lets each section's entries have
    "scales": scale.KEYS,
    "datasets": checks.BESIDE["datasets"],
    "archs": checks.BESIDE["archs"],
    "attacks": checks.BESIDE["attacks"],
    "methods": checks.BESIDE["methods"],
    "averages": averages.KEYS,
    "weights": (*outside.WEIGHTS_KEYS, *outside.READING),
    "parents": runs.PARENT_KEYS,
    "victims": victims.KEYS,
    "suites": suites.KEYS,
    "tables": (*table_entries.KEYS, "on_request"),
    "figures": figures.KEYS,
    "resources": (
        *audit.STAGE_KEYS,
        *(key for kind in (audit.OWN_KEYS, audit.WORDS) for keys in kind.values() for key in keys),
    ),
}


def test_the_page_is_todays():
    path = ROOT / "docs" / "params.md"
    assert path.read_text() == page(), "run: python -m pipeline params > docs/params.md"


def test_every_section_and_key_that_the_plan_takes_is_explained():
    assert set(KEYS) == set(entries.SECTIONS) >= set(published())
    for section, keys in CHECKED.items():
        assert set(KEYS[section][1]) == set(keys), section
    assert all(said[2] or said[0] for _, keys in KEYS.values() for said in keys.values())


def test_a_tab_in_params_is_one_line_here_too(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("methods:\n\tpgd_at: {}\n")
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["methods"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pipeline.tools.methods", run_name="__main__")
    assert str(ended.value).startswith("error: ") and "\n" not in str(ended.value)
