"""C23: a scale's cut that flatters a row more than its reference is said beside the row."""

from pathlib import Path

import pytest
import tiny
from projects import published

from pipeline.errors import UserError
from pipeline.flags import flags
from pipeline.plan import Plan
from pipeline.plan.graph import hidden

HEAD = ",".join(hidden.KEYS)


@pytest.fixture
def measured(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(hidden, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / hidden.FILE


def test_only_a_cut_that_hides_more_than_of_the_reference_fires() -> None:
    assert flags.hidden((3.5, 200), (2.0, 200)) is None  # 1.5 points are fair
    fired = flags.hidden((3.6, 200), (2.0, 200))
    assert fired is not None and fired.check == "C23" and not fired.fails
    assert "take 3.6 points from it and 2.0 from the reference (200 images)" in fired.text


def test_cuts_that_were_measured_on_other_images_are_not_compared() -> None:
    assert flags.hidden((9.0, 200), (2.0, 1000)) is None
    assert flags.hidden((9.0, 1000), (2.0, 200)) is None


def test_every_record_of_the_demos_first_table_is_measured() -> None:
    """`python -m bench.cuts --write` measures them again."""
    cells = Plan(published()).tables["table1"].cells
    named = {cell.records[hidden.SUITE].id for cell in cells if hidden.SUITE in cell.records}
    assert sorted(named - hidden.load().keys()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("row,cut\n", "needs the columns row, record, images, cut, full"),
        (f"{HEAD}\nsoe,x,200,many,3\n", "line 2: is no measurement"),
        (f"{HEAD}\nsoe,x,200\n", "line 2: is no measurement"),
    ],
)
def test_a_file_of_another_form_is_one_line(measured, text, says) -> None:
    assert hidden.load() == {}
    measured.write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        hidden.load()
    assert str(hidden.FILE) in tiny.line(raised)


def test_a_table_marks_the_row_that_the_figures_are_about(measured, monkeypatch) -> None:
    folder, rows = measured.parents[1] / "place", ["standard", "pgd_at"]
    plan = tiny.place(folder, monkeypatch, tiny.table_of(rows))
    tiny.made(plan, rows)
    before = plan.table("table1")
    ids = {cell.row: cell.records[hidden.SUITE].id for cell in before.cells}

    lines = [f"standard,{ids['standard']},200,40,31", f"pgd_at,{ids['pgd_at']},200,60,59"]
    measured.write_text("\n".join([HEAD, *lines, "standard,of-another-record,200,40,0", ""]))
    marked = Plan(tiny.table_of(rows))
    assert marked.table("table1").digest != before.digest  # it is to be made again

    _, details, text = tiny.tabulated(marked)
    assert "take 9.0 points from it and 1.0 from the reference" in text
    assert "C23" in details["rows"]["standard"]["flags"]
    assert "C23" not in details["rows"]["pgd_at"]["flags"]
