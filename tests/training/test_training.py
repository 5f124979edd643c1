"""Training from its spec to its files: interrupted or not, selected, and refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from pipeline import train
from pipeline.core import flops
from pipeline.core.ensemble import MeanProb, combine
from pipeline.errors import UserError
from pipeline.loading import models
from pipeline.loading.images import load_split
from pipeline.plan import Plan, Run
from pipeline.store import checkpoint
from pipeline.store.files import load_safetensors
from pipeline.training import validate
from pipeline.training.trainer import Trainer
from pipeline.training.validate import accuracies

# ---- what a training writes


def test_a_run_says_what_it_is_and_what_it_cost(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.params(epochs=2, validate_every=2))
    (run,) = tiny.trained(plan, "pgd_at")
    details = json.loads((run.folder / "run.json").read_text())
    assert details["id"] == run.id and details["spec"] == json.loads(json.dumps(run.spec))
    split = load_split(run.dataset, "train", tiny.CPU)
    (net,) = models.build_members(run.spec, split, tiny.CPU)
    forward, first = 2 * flops.count_macs(net, 1, 8), 2 * flops.count_macs(net.stem[0], 1, 8)
    attack = 2 * 2 * forward  # two steps, each a forward and a backward to the images
    per_image = attack + 3 * forward - first  # the first layer needs no gradient of its images
    assert details["flops"] == 2 * 120 * per_image and details["inherited"] == {}
    rows = tiny.history(run)
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert [r["val_clean"] != "" for r in rows] == [False, True]
    assert "seconds" not in details and "seconds" in (run.folder / "run.time.json").read_text()


def test_inherited_flops_count_every_run_once(tmp_path):
    def write(name: str, flops: int, inherited: dict[str, int]) -> Path:
        (tmp_path / name).mkdir()
        text = json.dumps({"id": name, "spec": {}, "flops": flops, "inherited": inherited})
        (tmp_path / name / "run.json").write_text(text)
        return tmp_path / name

    root = write("root", 100, {})
    children = [write(n, 10, {"root": 100}) for n in ("a", "b")]
    found = models.inherited_flops([*children, root])
    assert found == {"root": 100, "a": 10, "b": 10}


def test_without_validation_the_best_weights_are_the_last(tmp_path, monkeypatch):
    found = tiny.params(epochs=1, validate_every=0)
    plan = tiny.place(tmp_path, monkeypatch, found)
    (run,) = tiny.trained(plan, "standard")
    assert tiny.sums(run)["best.safetensors"] == tiny.sums(run)["weights.safetensors"]
    assert tiny.history(run)[0]["val_robust"] == ""


@pytest.mark.parametrize(("stated", "minutes"), [(None, 10), (3, 3)])
def test_a_state_is_saved_every_ten_minutes_where_resources_do_not_say(
    tmp_path, monkeypatch, stated, minutes
):
    found = tiny.params(epochs=1)
    if stated is None:
        del found["resources"]
    else:
        found["resources"]["train"]["save_minutes"] = stated
    plan = tiny.place(tmp_path, monkeypatch, found)
    assert Trainer(plan, tiny.one_run(plan, "standard"), tiny.CPU, None).pause == 60 * minutes


def test_the_command_trains_once_and_keeps_what_is_there(tmp_path, monkeypatch, capsys):
    found = tiny.params(epochs=1)
    found["tables"]["table1"]["rows"] = ["pgd_at_single", "meat"]
    plan = tiny.place(tmp_path, monkeypatch, found)
    run, meat = tiny.one_run(plan, "pgd_at"), tiny.one_run(plan, "meat")
    train.main([run.id])
    assert (run.snapshots / "from1.json").is_file()  # meat's trajectory comes with it
    before = (run.folder / "weights.safetensors").stat()
    train.main([f"results/runs/{run.id}"])
    assert "nothing to do" in capsys.readouterr().out
    assert (run.folder / "weights.safetensors").stat() == before
    with pytest.raises(UserError, match="is an average: use python -m pipeline.average"):
        train.main([meat.id])
    with pytest.raises(UserError, match=r"no run .*\(nearest: "):
        train.main([f"{run.id[:-1]}_"])


# ---- selection


def kept(plan: Plan, run: Run) -> list[dict[str, Tensor]]:
    train.train(plan, run, tiny.CPU, 1)
    return [load_safetensors(p, "")[0] for p in sorted(run.snapshots.glob("*.safetensors"))]


def best_epoch(run: Run, snapshots: list[dict[str, Tensor]]) -> int:
    best = load_safetensors(run.folder / "best.safetensors", "")[0]
    return 1 + next(
        i for i, s in enumerate(snapshots) if all(torch.equal(s[n], best[n]) for n in best)
    )


def validated(plan: Plan, run: Run, weights: dict[str, Tensor], split: str) -> tuple[float, float]:
    data = load_split(run.dataset, split, tiny.CPU)
    members = models.build_members(run.spec, data, tiny.CPU)
    checkpoint.distribute(weights, members, run.folder)
    attack = Trainer._attack(run.spec["validation_attack"])
    return accuracies(combine("mean_prob", members), data, attack, run.spec["seed"])


@pytest.mark.parametrize("select, split", [
    ("best_val", "validation"), ("best_test_as_published", "test")
])  # fmt: skip
def test_the_best_is_the_earliest_with_the_highest_robust_accuracy(
    tmp_path, monkeypatch, select, split
):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=4, select=select))
    run = tiny.one_run(plan, "pgd_at")
    snapshots, rows = kept(plan, run), tiny.history(run)
    scores = [float(r["val_robust"]) for r in rows]
    assert best_epoch(run, snapshots) == 1 + scores.index(max(scores))
    found = [validated(plan, run, s, split) for s in snapshots]
    assert found == [(float(r["val_clean"]), float(r["val_robust"])) for r in rows]


def test_of_equal_epochs_the_earliest_is_kept(tmp_path, monkeypatch):
    for select, key in (("best_val", "val_robust"), ("lowest_train_loss", "loss")):
        plan = tiny.place(tmp_path / select, monkeypatch, tiny.changed(select=select))
        trainer = Trainer(plan, tiny.one_run(plan, "standard"), tiny.CPU, None)
        for epoch, value in enumerate([0.5, 0.25, 0.25, 0.5]):
            row = {"loss": 9.0, "val_robust": 0.1, key: value}
            trainer._select(row, {"epoch": torch.tensor(epoch)})
        assert trainer.best is not None
        assert trainer.best[1]["epoch"] == (0 if select == "best_val" else 1)


def test_the_lowest_train_loss_is_selected_where_asked(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=3, select="lowest_train_loss"))
    run = tiny.one_run(plan, "standard")
    snapshots = kept(plan, run)
    losses = [float(r["loss"]) for r in tiny.history(run)]
    assert best_epoch(run, snapshots) == 1 + losses.index(min(losses))


def test_accuracies_are_those_of_a_plain_loop(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch)
    split = load_split(plan.dataset("digits"), "validation", tiny.CPU)
    (net,) = models.build_members(tiny.one_run(plan, "standard").spec, split, tiny.CPU)

    def darken(model: nn.Module, images: Tensor, labels: Tensor, draws: Any) -> Tensor:
        assert (model(images).argmax(1) == labels).all()  # only images that are right are attacked
        return images * 0.5

    net.eval()
    right = both = 0
    for image, label in zip(split.floats(), split.labels, strict=True):
        before = net(image[None]).argmax() == label
        right += int(before)
        both += int(before and net(image[None] * 0.5).argmax() == label)
    victim = combine("single", [net])
    assert accuracies(victim, split, darken, 0) == (right / len(split), both / len(split))
    assert accuracies(victim, split, None, 0) == (right / len(split),) * 2


def test_a_random_victim_is_validated_in_expectation(tmp_path, monkeypatch):
    """Not by one draw: the members' mean is attacked, and every member answers."""
    plan = tiny.place(tmp_path, monkeypatch)
    split = load_split(plan.dataset("digits"), "validation", tiny.CPU)
    spec = tiny.runs(plan, "red", 3)[0].spec
    members = [m.eval() for m in models.build_members(spec, split, tiny.CPU)]

    def darken(model: nn.Module, images: Tensor, labels: Tensor, draws: Any) -> Tensor:
        assert type(model) is MeanProb and len(model.members) == 3
        return images * 0.5

    before = torch.stack([m(split.floats()).argmax(1) == split.labels for m in members])
    after = torch.stack([m(split.floats() * 0.5).argmax(1) == split.labels for m in members])
    wanted = float(before.double().mean()), float((before & after).double().mean())
    for batch in (500, 60):
        monkeypatch.setattr(validate, "VALIDATED", batch)
        for rule in ("random_one", "random_each"):
            found = accuracies(combine(rule, members), split, darken, 0)
            assert found == pytest.approx(wanted, abs=1e-12)
