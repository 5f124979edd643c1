"""A user's file is one net of one data set: adopted and attacked once, and nowhere else."""

import pytest
import tiny

from pipeline.errors import UserError
from pipeline.plan import Plan

FILE = {
    "of": "file", "file": "net.pt", "sha256": "0" * 64, "method": "standard",
    "arch": "resnet20", "members": 1, "mean": [0.5], "std": [0.5], "dataset": "digits",
}  # fmt: skip


def test_a_file_stands_once_in_a_table_of_three_seeds(tmp_path, monkeypatch):
    asked = tiny.table_of(["standard", "mine"], seeds=[0, 1, 2], reference="standard")
    asked["victims"]["mine"] = FILE
    asked["scales"]["demo"]["seeds"] = [0, 1, 2]
    plan = tiny.place(tmp_path, monkeypatch, asked)
    cells = plan.table("table1").cells
    assert [(c.row, c.seed) for c in cells] == [
        ("standard", 0),
        ("standard", 1),
        ("standard", 2),
        ("mine", 0),
    ]
    adopted = [run for run in plan.graph.runs.values() if run.stage == "adopt"]
    assert len(adopted) == 1 and adopted[0].spec["seed"] == 0
    assert adopted[0].arch == "resnet20"  # whatever arch stands in for it at demo


def of_cifar(**changed):
    """A table of cifar10, for which digits stand in at demo, with a file of its own network."""
    asked = tiny.table_of(["standard", "mine"], reference="standard")
    own = {k: v for k, v in FILE.items() if k != "dataset"}
    asked["victims"]["mine"] = own | {"mean": [0.5] * 3, "std": [0.5] * 3} | changed
    return asked


@pytest.mark.parametrize("own", [{}, {"dataset": "cifar10"}, {"dataset": "mnist", "mean": [0.5]}])
def test_a_data_set_that_stands_in_is_no_files(tmp_path, monkeypatch, own):
    plan = tiny.place(tmp_path, monkeypatch, of_cifar(**own))
    cells = {c.row: c for c in plan.table("table1").cells}
    assert cells["mine"].victim is None and cells["mine"].lacks == "not at this scale"
    assert not [run for run in plan.graph.runs.values() if run.stage == "adopt"]
    tiny.made(plan, ["standard"])
    frame, _, text = tiny.tabulated(plan)
    assert frame.status["mine"] == "not at this scale" and "| mine | not at this scale" in text


def test_one_file_a_member_has_a_sum_for_each(tmp_path, monkeypatch):
    names = ["checkpoint.pth.tar.0", "net.ckpt"]
    several = {"file": names, "sha256": ["1" * 64, "2" * 64], "members": 2, "dataset": "digits"}
    own = {**several, "mean": [0.5], "std": [0.5]}
    plan = tiny.place(tmp_path, monkeypatch, of_cifar(**own))
    (run,) = [run for run in plan.graph.runs.values() if run.stage == "adopt"]
    assert run.files == tuple(names) and [str(s) for s in run.sources] == names
    for wrong, text in (
        ({"sha256": ["1" * 64]}, "needs one for each of 2 files"),
        ({"file": ["net.ckpt", "net.zip"]}, "'net.zip' is no file of weights"),
        ({"dataset": "digit"}, "no entry 'digit' .nearest: digits"),
        ({"names": "kuangliu"}, "'kuangliu' is not one of ours, auto"),
        ({"drop": "module."}, "drop: needs a list of prefixes"),
    ):
        with pytest.raises(UserError, match=text):
            Plan(of_cifar(**own | wrong))
