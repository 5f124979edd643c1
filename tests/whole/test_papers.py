"""One small table of each paper, from raw data to claims, by the target of `make demo-all`."""

import json

import pandas as pd
import pytest
from projects import copy_project, jobs, published, run, shrink

pytestmark = pytest.mark.workflow

ONE = {"datasets": ["cifar10"], "members": [2], "seeds": [0], "images": 20, "reference": "none"}
PAPERS = {  # each paper's own method, with the control it needs or a baseline
    "aute_table4": {"rows": ["aute", "mart_joint"], "columns": ["clean", "pgd10", "apgd_ce"]},
    "soe_table1": {"rows": ["soe_100"], "train_eps": [0.04]},
    "at_aka_table2": {"rows": ["at_aka"], "archs": ["resnet18"], "columns": ["clean", "fgsm"]},
    "red_table1": {"rows": ["red", "red_averaged", "red_pretrained"], "archs": ["resnet18_red"]},
    "meat_table1": {"rows": ["meat", "last_bn"], "members": [1]},
}
SUITES = {
    "aute_short": {"attacks": ["pgd10", "apgd_ce"]},
    "soe": {"attacks": ["pgd50_5"]},
    "at_aka": {"attacks": ["fgsm"]},
    "red": {"attacks": ["red_fgsm", "red_pgd", "red_mean_pgd"]},
    "meat": {"attacks": ["meat_pgd20"]},
}
COLUMNS = {
    "soe_table1": ["clean", "pgd50_5", "pgd50_5_oracle", "pgd50_5_vote", "pgd50_5_regret"],
    "red_table1": ["clean", "red_fgsm", "red_pgd", "red_mean_pgd", "parameters"],
    "meat_table1": ["clean", "meat_pgd20", "trajectory_bytes"],
}
STEPS = ("pgd10", "apgd_ce", "red_pgd", "red_mean_pgd", "meat_pgd20", "train_pgd10", "train_aute6")
STEPS += ("train_soe10", "train_red10", "train_trades10", "pgd50_5")


def small() -> dict:
    """Two members, two epochs of 64 images, one step of every attack."""
    found = published()
    shrink(found, 20, epochs=2, train_images=64, validate_every=0)
    demo = found["scales"]["demo"]
    demo["archs"] = dict.fromkeys(("resnet20", "resnet18", "resnet18_red", "wrn34_10"), "tiny")
    demo["attacks"] = {name: {"steps": 1} for name in STEPS}
    found["methods"]["at_aka"] |= {"steps": 1, "teachers": 2}
    found["suites"] = SUITES
    for name, cut in PAPERS.items():
        whole = found["tables"][name]
        base = found["tables"].get(whole.pop("base", ""), {})
        found["tables"][name] = {**base, **whole, **ONE, "means": {}, **cut}
        found["tables"][name]["suites"] = [
            s for s in found["tables"][name]["suites"] if s in SUITES
        ]
        found["tables"][name]["columns"] = COLUMNS.get(name, found["tables"][name]["columns"])
    found["tables"] = {name: found["tables"][name] for name in PAPERS}
    found["tables"]["red_table1"]["archs"] = ["resnet18_red"]
    return found


def test_a_small_table_of_each_paper_and_its_claims_are_built_by_one_command(tmp_path):
    folder = copy_project(tmp_path / "project", small())
    run(folder, "tables")
    rows = {}
    for name in PAPERS:
        paper, _, table = name.rpartition("_")
        frame = pd.read_csv(folder / "results" / paper / f"{table}.csv", keep_default_na=False)
        rows |= {(name, row["method"]): row for row in frame.to_dict("records")}
    status = {key: row["status"] for key, row in rows.items()}
    assert status.pop(("red_table1", "red_pretrained")) == "needs weights"
    assert set(status.values()) == {"done"} and len(status) == 8
    soe = rows["soe_table1", "soe_100"]
    assert soe["pgd50_5_oracle"] - soe["pgd50_5"] == pytest.approx(soe["pgd50_5_regret"], abs=2e-6)
    meat, control = rows["meat_table1", "meat"], rows["meat_table1", "last_bn"]
    assert meat["trajectory_bytes"] == 4 * parameters(folder, "meat") * 2
    assert control["trajectory_bytes"] == 0
    claims = (folder / "results" / "claims.md").read_text()
    assert "| red | audit | the same members averaged are better on clean images | not at" in claims
    assert "not in the table at this scale" in claims and "contradicted" in claims
    assert jobs(folder, "tables") == {}


def parameters(folder, row: str) -> int:
    details = json.loads((folder / "results/meat/table1.json").read_text())["rows"]
    return details[row]["parameters"]
