"""docs/flags.md explains every check that a table may print, and no other."""

import re

from projects import ROOT

from pipeline.flags.flags import CHECKS, FAILS


def test_the_page_explains_every_check_and_says_which_ones_stop_a_table():
    page = (ROOT / "docs" / "flags.md").read_text().partition("**Not ranked.**")[0]
    rows = re.findall(r"^\| (C\d+) \|.*\| *(yes)? *\|$", page, flags=re.M)
    assert [check for check, _ in rows] == ["C1", *CHECKS, "C23"]
    assert {check for check, stops in rows if stops} == set(FAILS)
