"""Members against their peers, and suites on validation images: from verdicts to a table."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from pipeline import evaluate, tabulate
from pipeline.core.metrics import of_members, of_peers
from pipeline.errors import UserError
from pipeline.loading import models
from pipeline.loading.images import load_split
from pipeline.plan import Plan
from pipeline.store.records import meta, read_arrays

LABELS = np.array([0, 0, 1])
SAID = np.array([[0, 1, 0], [1, 1, 1], [1, 1, 0]], np.int16)  # [N, members]
PEERS = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 1]], np.int16)
ARRAYS = {"members": SAID, "peers": PEERS, "gap": np.array([0.5, -1, 0.25], np.float32)}
ARRAYS["gaps"] = np.array([[0.5, 0.25, 0], [-1, -1, -1], [1, 0, 0.5]], np.float32)


@pytest.mark.parametrize(
    "rule, wanted",
    [
        ("peers", [2 / 3, 1 / 3, 2 / 3]),
        ("ahead", [1 / 3, 0, 1 / 3]),  # member 0 of the first image, member 0 of the third
        ("behind", [1 / 3, 1 / 3, 1 / 3]),
        ("gap", [0.5, -1, 0.25]),
        ("gaps", [0.25, -1, 0.5]),
    ],
)
def test_a_small_table_counted_by_hand(rule, wanted):
    assert of_peers(rule, ARRAYS, LABELS) == pytest.approx(wanted)


def test_none_is_what_no_rule_could_answer():
    right = np.array([0, 0, 1], np.float32)
    assert of_members("none", right, SAID, LABELS).tolist() == [0, 1, 0]


def asked(**changed) -> dict:
    found = tiny.params(epochs=2)
    found["suites"] = {
        "unified": {"attacks": ["pgd10"], "peers": True},
        "choice": {"attacks": ["validation_margin_pgd"], "split": "validation"},
    }
    rules = ("alone", "peers", "ahead", "behind", "gap", "gaps")
    found["tables"]["table1"] |= {
        **{"rows": ["pgd_at"], "members": [3], "reference": "none"},
        "columns": ["clean", "pgd10", *(f"pgd10_{r}" for r in rules), "clean_peers"],
        **changed,
    }
    return found


def evaluated(plan: Plan) -> dict:
    (cell,) = plan.table("table1").cells
    tiny.trained(plan, "pgd_at", cell.members)
    for record in cell.records.values():
        evaluate.evaluate(plan, record, tiny.CPU)
    return {suite: read_arrays(record.path) for suite, record in cell.records.items()}


def test_what_peers_say_is_the_mean_of_all_others_and_a_table_has_it(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, asked())
    arrays = evaluated(plan)["unified"]
    (cell,) = plan.table("table1").cells
    split = load_split(plan.dataset("digits"), "test", tiny.CPU)
    victim = models.load_victim(plan, cell.victim, split, tiny.CPU)
    with torch.no_grad():
        images = split.floats(torch.from_numpy(arrays["ids"]))
        probs = torch.stack([member(images).softmax(-1) for member in victim.members])
    for i in range(3):
        others = probs[[j for j in range(3) if j != i]].mean(0)
        assert np.array_equal(arrays["clean/peers"][:, i], others.argmax(1).numpy())
    labels = torch.from_numpy(arrays["labels"])
    top = probs.mean(0).topk(2).values
    right = probs.mean(0).argmax(1) == labels
    gap = torch.from_numpy(arrays["clean/gap"])
    assert torch.allclose(gap[right], (top[:, 0] - top[:, 1])[right], atol=1e-6)
    assert (gap[~right] <= 0).all() and arrays["clean/gaps"].shape == (30, 3)
    tabulate.tabulate(plan, plan.table("table1"), False)
    row = json.loads(Path("results/table1.json").read_text())["rows"]["pgd_at"]
    of = {rule: row[f"pgd10_{rule}"]["mean"] for rule in ("alone", "peers", "ahead", "behind")}
    assert of["alone"] - of["peers"] == pytest.approx(of["ahead"] - of["behind"], abs=1e-6)
    assert -1 <= row["pgd10_gap"]["mean"] < row["clean"]["mean"]


def test_a_record_that_asks_no_peers_has_the_bytes_it_had(tmp_path, monkeypatch):
    without = asked(columns=["clean", "pgd10"])
    without["suites"]["unified"].pop("peers")
    plan = tiny.place(tmp_path, monkeypatch, without)
    arrays = evaluated(plan)["unified"]
    assert not [key for key in arrays if key.endswith(("peers", "gap", "gaps"))]
    assert "peers" not in meta(arrays)["spec"] and "split" not in meta(arrays)["spec"]


def test_one_network_has_no_peers():
    with pytest.raises(UserError, match=r"suites\.unified\.peers: pgd_at has one member"):
        Plan(asked(members=[1], columns=["clean"]))


def test_columns_of_peers_need_a_suite_that_asks_them():
    found = asked()
    found["suites"]["unified"]["peers"] = False
    with pytest.raises(UserError, match="columns: no entry 'pgd10_peers'"):
        Plan(found)


def test_a_choice_is_judged_on_all_validation_images_and_says_so(tmp_path, monkeypatch):
    columns = ["clean", "validation_margin_pgd"]
    found = asked(suites=["choice"], columns=columns, rows=["trades"], members=[1], beta=[0, 6])
    plan = tiny.place(tmp_path, monkeypatch, found)
    cells = plan.table("table1").cells
    for cell in cells:
        for element in cell.victim.elements:
            tiny.train.train(plan, plan.run(element.run), tiny.CPU, None)
        for record in cell.records.values():
            assert record.images == 180 and record.split == "validation"
            evaluate.evaluate(plan, record, tiny.CPU)
    arrays = read_arrays(next(iter(cells[0].records.values())).path)
    split = load_split(plan.dataset("digits"), "validation", tiny.CPU)
    assert np.array_equal(arrays["labels"], split.labels.numpy())
    text = tabulate.tabulate(plan, plan.table("table1"), False)
    rows = json.loads(Path("results/table1.json").read_text())["rows"]
    top = max(rows, key=lambda row: rows[row]["validation_margin_pgd"]["mean"])
    assert "180 validation images" in text and f"Best on them: {top}." in text


def test_transfer_sets_are_of_test_images():
    found = asked(columns=["clean"])
    found["suites"]["unified"] = {"attacks": ["mpgd"], "surrogates": ["held_out_at"]}
    found["suites"]["unified"]["split"] = "validation"
    with pytest.raises(UserError, match="transfer sets are of test images"):
        Plan(found)
