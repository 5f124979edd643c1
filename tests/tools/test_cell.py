"""One row, one command: what it needs and nothing else."""

import pytest
from projects import command, copy_project, tiny_params

from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.plan.__main__ import main
from pipeline.tools import cell


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two rows at two seeds, with 1 and 2 members; nothing built."""
    params = tiny_params()
    params["tables"]["table1"] |= {"members": [1, 2], "seeds": [0, 1]}
    params["scales"]["demo"]["seeds"] = [0, 1]
    return copy_project(tmp_path_factory.mktemp("cell"), params), Plan(params)


def test_a_row_at_a_seed_is_what_is_named_and_nothing_else(project, monkeypatch, capsys):
    folder, plan = project
    monkeypatch.chdir(folder)
    asked = ["results/table1.csv", "--row", "trades", "--members", "2", "--seed", "1"]
    main(asked)
    out = capsys.readouterr().out
    assert "2 trainings, 1 evaluation" in out
    table, records = cell.cut_to_row(plan, plan.table("table1"), "trades", 2, 1)
    assert [c.seed for c in table.cells] == [1] and len(records) == 1
    assert f"snakemake --cores all -- {records[0]}" in out

    for members in (2, None):  # what the table and its page call the row
        same = cell.cut_to_row(plan, plan.table("table1"), "trades x2", members, 1)
        assert same == (table, records)

    # Snakemake, handed the same, plans those jobs alone
    done = command(folder, "python", "-m", "pipeline", "plan", *asked, "--run", "-n", "-c1")
    assert done.returncode == 0, done.stdout
    counts = done.stdout.rpartition("Job stats:")[2].partition("total")[0].split()
    assert {counts[i]: counts[i + 1] for i in range(4, len(counts), 2)} == {
        "download": "1", "evaluate": "1", "prepare": "1", "train": "2",
    }  # fmt: skip


def test_what_is_not_there_is_said(project, monkeypatch):
    folder, plan = project
    monkeypatch.chdir(folder)
    table = plan.table("table1")
    with pytest.raises(UserError, match=r"trades: no seed 7 at this scale, but \[0, 1\]"):
        cell.cut_to_row(plan, table, "trades", 1, 7)
    with pytest.raises(UserError, match=r"trades: no members 9 at this scale, but \[1, 2\]"):
        cell.cut_to_row(plan, table, "trades", 9, None)
    with pytest.raises(
        UserError, match="trades: stands for several rows .*'trades x1', 'trades x2'"
    ):
        cell.cut_to_row(plan, table, "trades", None, 0)
    with pytest.raises(UserError, match="no row 'tradess' .nearest: trades"):
        cell.cut_to_row(plan, table, "tradess", None, 0)
    with pytest.raises(UserError, match="--seed: is of a row; name one with --row"):
        main(["results/table1.csv", "--seed", "1"])
    with pytest.raises(UserError, match="--row: is of one table; name it"):
        main(["--row", "trades"])
