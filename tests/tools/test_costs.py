"""What rows cost: times beside results, in a file of their own."""

import dataclasses
import json
import time
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from torch import nn

from pipeline.core.ensemble import combine
from pipeline.evaluation.latency import QUERIES, milliseconds
from pipeline.tools import costs


class Slow(nn.Module):
    """Answers one image after a while, and counts."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.asked = seconds, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert len(images) == 1
        self.asked += 1
        time.sleep(self.seconds)
        return images.new_zeros(1, 3)


def test_an_average_asks_every_member_and_a_draw_one():
    images = torch.zeros(7, 1, 4, 4)
    slow = [Slow(0.002) for _ in range(3)]
    averaged = milliseconds(combine("mean_prob", slow), images)
    assert 6 <= averaged < 60 and [m.asked for m in slow] == [2 * QUERIES] * 3
    drawn = [Slow(0.002) for _ in range(3)]
    assert 2 <= milliseconds(combine("random_one", drawn), images) < averaged
    assert sum(m.asked for m in drawn) == 2 * QUERIES


def test_the_file_holds_measured_times_and_says_where(tmp_path, monkeypatch, capsys):
    found = tiny.table_of(["pgd_at", "meat", "to_come"])
    plan = tiny.place(tmp_path, monkeypatch, found)
    tiny.made(plan, ["pgd_at", "meat"])
    costs.main(["results/table1.csv"])
    frame = pd.read_csv("results/table1.cost.csv").set_index("method")
    assert "meat" in capsys.readouterr().out
    table = plan.table("table1")
    assert table.cells[0].setting.arch == "resnet20"  # what stands in is what was measured
    assert set(frame["arch"]) == {"tiny"} and set(frame["dataset"]) == {"digits"}
    assert set(frame["scale"]) == {"demo"}
    assert (frame.loc[["pgd_at", "meat"], "latency_ms"] > 0).all()
    (run,) = [r for r in plan.graph.runs.values() if r.entry == "pgd_at"]
    seconds = json.loads((run.folder / "run.time.json").read_text())["seconds"]
    assert frame.loc["meat", "train_seconds"] == pytest.approx(seconds)  # of its trajectory
    assert frame.loc["meat", "train_flops"] > frame.loc["pgd_at", "train_flops"]
    assert frame.loc["pgd_at", "device"].startswith("cpu ")
    assert frame.loc["to_come"].isna().sum() >= 6
    for path in Path("results/records").rglob("*.time.json"):
        assert {"seed", "torch", "python", "device"} <= set(json.loads(path.read_text()))
    run = dataclasses.replace(run, stage="adopt")
    with monkeypatch.context() as patch:
        patch.setattr(type(plan), "run", lambda *_: run)
        cell = next(cell for cell in plan.table("table1").cells if cell.row == "pgd_at")
        assert costs._sum_training(plan, cell)[0] == ""  # nobody knows what adopted weights took
    for path in Path("results").rglob("*.time.json"):
        path.unlink()
    costs.main(["results/table1.csv"])
    frame = pd.read_csv("results/table1.cost.csv").set_index("method")
    assert frame.loc["pgd_at", ["latency_ms", "train_seconds", "evaluate_seconds"]].isna().all()
    assert frame.loc["pgd_at", "parameters"] > 0
