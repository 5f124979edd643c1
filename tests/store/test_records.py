"""Records on disk: what they hold, resumed to the same bytes, refused when unreadable."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pipeline import evaluate
from pipeline.errors import Interrupted, UserError
from pipeline.evaluation.verdicts import SEED, Evaluation
from pipeline.loading import models
from pipeline.loading.images import load_split, subset
from pipeline.plan import Plan, Record
from pipeline.plan.params.entries import Setting
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.store.records import Arrays, meta, pack, read_arrays


@pytest.fixture
def here(tmp_path, monkeypatch) -> Plan:
    found = tiny.params(epochs=1)
    found["victims"]["moody"] = {"of": "standard", "combine": "random_one"}
    found["suites"]["unified"]["attacks"] = ["fgsm", "pgd10", "mean_logit_apgd_dlr"]
    found["scales"]["demo"]["attacks"]["mean_logit_apgd_dlr"] = {"steps": 2}
    return tiny.place(tmp_path, monkeypatch, found)


def record_of(plan: Plan, row: str, members: int = 2) -> Record:
    tiny.trained(plan, row, members)
    setting = Setting("cifar10", "resnet20", "unified", members, 0)
    return plan.name_record(plan.name_victim(row, setting), "unified", setting, 30)


def made(plan: Plan, record: Record) -> Arrays:
    evaluate.evaluate(plan, record, tiny.CPU)
    return read_arrays(record.path)


def test_a_record_holds_verdicts_weights_and_costs(here):
    record = record_of(here, "standard")
    found = made(here, record)
    assert {n.split("/")[0] for n in found} == {
        "ids", "labels", "clean", "fgsm", "pgd10", "mean_logit_apgd_dlr", "meta"
    }  # fmt: skip
    test = load_split(here.dataset("digits"), "test", tiny.CPU)
    assert found["ids"].tolist() == subset(30, 720)
    assert np.array_equal(found["labels"], test.labels[found["ids"]].numpy())
    said = meta(found)
    assert said["spec"] == json.loads(json.dumps(record.spec))
    runs = [here.run(e.run) for e in record.victim.elements]
    weights = {r.id: sha256_of(r.folder / "weights.safetensors") for r in runs}
    assert said["weights"] == weights and len(weights) == 2
    flops = [json.loads((r.folder / "run.json").read_text())["flops"] for r in runs]
    assert said["cost"]["train_flops"] == sum(flops) and said["cost"]["members"] == 2
    victim = models.load_victim(here, record.victim, test, tiny.CPU)
    sizes = [p.numel() for p in victim.parameters()]
    assert said["cost"]["parameters"] == sum(sizes)
    assert not Path("work/records", record.id).exists()


def test_a_random_victim_costs_one_member_a_query(here):
    both, one = (meta(made(here, record_of(here, r)))["cost"] for r in ("standard", "moody"))
    assert both["inference_macs"] == 2 * one["inference_macs"]
    assert both["parameters"] == one["parameters"]


def test_the_gate_of_a_mixture_is_asked_in_every_query(here):
    experts, mixture = (meta(made(here, record_of(here, r)))["cost"] for r in ("standard", "more"))
    gate = mixture["inference_macs"] - experts["inference_macs"]
    # It is a network of an expert's arch, but for its head: two experts, not ten classes.
    assert 0.9 < gate / (experts["inference_macs"] / 2) < 1


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Ask to stop during attack number `after`; the names of the attacks that run."""
    whole, names = Evaluation.attack, list[str]()

    def attack(self: Evaluation, name: str, asked: dict[str, Any], seed: int = SEED) -> Arrays:
        names.append(name)
        if len(names) == after:
            signal.raise_signal(signal.SIGTERM)
        return whole(self, name, asked, seed)

    monkeypatch.setattr(Evaluation, "attack", attack)
    return names


@pytest.mark.parametrize("row", ["standard", "moody"])
def test_a_resumed_record_has_the_same_bytes(here, monkeypatch, row):
    record = record_of(here, row)
    made(here, record)
    expected = record.path.read_bytes()
    record.path.unlink()
    names = interrupt(monkeypatch, 2)
    with pytest.raises(Interrupted, match="saved after pgd10; run again to resume"):
        evaluate.evaluate(here, record, tiny.CPU)
    assert not record.path.exists() and names == ["fgsm", "pgd10"]
    evaluate.evaluate(here, record, tiny.CPU)
    assert names == ["fgsm", "pgd10", "mean_logit_apgd_dlr"]
    assert record.path.read_bytes() == expected


def test_verdicts_on_other_weights_are_not_resumed(here):
    record = record_of(here, "standard")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, 1)
        evaluate.evaluate(here, record, tiny.CPU)
    path = here.run(record.victim.elements[0].run).folder / "weights.safetensors"
    weights = load_safetensors(path, "")[0]
    path.with_name("run.time.json").unlink()  # which holds the sum of the first weights
    checkpoint.save(path, {n: v if "var" in n else -v for n, v in weights.items()})
    resumed = made(here, record)
    record.path.unlink()
    shutil.rmtree("work")
    assert pack(resumed) == pack(made(here, record))


def test_the_command_takes_an_id_or_a_file_and_leaves_a_record_alone(here, capsys):
    (cell,) = [c for c in here.table("table1").cells]
    tiny.trained(here, "standard", 3)
    record = cell.records["unified"]
    evaluate.main([record.id])
    before = record.path.stat()
    evaluate.main([str(record.path)])
    assert "nothing to do" in capsys.readouterr().out and record.path.stat() == before
    with pytest.raises(UserError, match="no record"):
        evaluate.main(["ghost/unified-0"])


def test_equal_arrays_give_equal_bytes(tmp_path):
    arrays = {"b": np.arange(4), "a": np.ones((2, 2), np.float32), "meta": np.array('{"x": 1}')}
    packed = pack(arrays)
    assert packed == pack(dict(reversed(arrays.items())))
    (tmp_path / "r.npz").write_bytes(packed)
    found = read_arrays(tmp_path / "r.npz")
    assert meta(found) == {"x": 1} and all(np.array_equal(found[k], v) for k, v in arrays.items())


def test_an_unreadable_record_is_refused_in_one_line(tmp_path):
    path = tmp_path / "r.npz"
    with pytest.raises(UserError, match="r.npz: is missing"):
        read_arrays(path)
    whole = pack({"a": np.arange(1000)})
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    pickled = tmp_path / "p.npz"
    np.savez(pickled, a=np.array([{}], dtype=object))
    for content in (whole[:-30], b"", b"PK", bytes(flipped), pickled.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or corrupt") as raised:
            read_arrays(path)
        assert "\n" not in str(raised.value)
