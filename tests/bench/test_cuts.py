"""What the bench of cut attacks refuses, before any work."""

import pytest
import tiny
from projects import published

from bench import cuts
from pipeline.errors import UserError
from pipeline.plan import Plan


def test_a_users_own_images_stay_where_they_are(tmp_path, monkeypatch):
    project, mine = tmp_path / "project", tmp_path / "my-data"
    mine.mkdir()
    (project / "results/runs").mkdir(parents=True)
    (project / "data/raw/mine").mkdir(parents=True)
    (project / "data/raw/mine/files").symlink_to(mine)
    monkeypatch.setattr(cuts, "ROOT", project)
    monkeypatch.setattr(cuts, "copy_code", lambda folder: (folder / "data").mkdir(parents=True))
    cuts.lay(tmp_path / "copy", {})
    assert (tmp_path / "copy/data/raw/mine/files").readlink() == mine


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The plan of a measurement where nothing is trained, and its table's own records."""
    monkeypatch.chdir(tmp_path)

    def plan(rows, **changed):
        params = published() | {"planned": ["to_come"]}
        table = params["tables"]["table1"]
        table |= {"rows": [*table["rows"], ["to_come"]], **changed}
        records = cuts.describe(Plan(params))
        monkeypatch.setattr(cuts, "read", lambda path: params)
        return Plan(cuts.build_params(50, rows, is_cut=True)), records

    return plan


@pytest.mark.parametrize(
    ("rows", "table", "says"),
    [
        (["pgd_at", "to_come"], {}, "to_come: is planned and has no numbers"),
        (["pgd_at"], {"members": [2, 3]}, "pgd_at: has several lines in table1"),
        (["trades_joint"], {}, "trades_joint: table1 has no record of it at this scale"),
        (["pgd_at"], {}, "results/runs/.*: is missing; train it first"),
    ],
)
def test_a_row_that_cannot_be_measured_is_refused_before_any_work(asked, rows, table, says):
    with pytest.raises(UserError, match=says) as raised:
        cuts.check(*asked(rows, **table))
    tiny.line(raised)


def test_without_writing_any_row_may_be_measured_and_its_seeds_are_one_line(asked, monkeypatch):
    plan, _ = asked(["trades_joint"], seeds=[0, 1])
    monkeypatch.setattr(Plan, "needs", lambda self, target: ([], []))
    cuts.check(plan, None)
