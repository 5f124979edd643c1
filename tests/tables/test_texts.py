"""What people typed into data/reported and data/claims."""

import pytest

from pipeline.errors import UserError
from pipeline.tables import texts


@pytest.mark.parametrize("cell", ["=1+1", " =cmd()", "@SUM(A1)", "+A1", "-(2)", "=HYPERLINK(a)"])
def test_a_cell_that_a_spreadsheet_would_compute_is_refused(tmp_path, cell):
    path = tmp_path / "a.csv"
    path.write_text(f"row,value\n-,-1.5\n{cell},+3\n")
    with pytest.raises(UserError) as caught:
        texts.read_texts(path, ("row", "value"))
    assert str(caught.value).startswith(f"{path}:3: {cell!r} is a formula")


def test_numbers_and_signs_are_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("row,value\nPS-RED + AT,-1.5\n-,+3\n")
    assert texts.read_texts(path, ("row", "value")).to_numpy().tolist() == [
        ["PS-RED + AT", "-1.5"],
        ["-", "+3"],
    ]
