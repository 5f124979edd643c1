"""A user's file is one net: in a table of three seeds it is adopted and attacked once."""

import tiny


def test_a_file_stands_once_in_a_table_of_three_seeds(tmp_path, monkeypatch):
    asked = tiny.table_of(["standard", "mine"], seeds=[0, 1, 2], reference="standard")
    asked["victims"]["mine"] = {
        "of": "file", "file": "net.pt", "sha256": "0" * 64, "method": "standard",
        "arch": "resnet20", "members": 1, "mean": [0.5], "std": [0.5], "keys": [],
    }  # fmt: skip
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
