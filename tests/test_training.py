"""Training from its spec to its files: interrupted or not, selected, and refused in one line."""

import csv
import json
import math
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from torch import Tensor, nn

from pipeline import checkpoint, cost, device, models, train
from pipeline.ema import Ema
from pipeline.ensemble import combine
from pipeline.errors import Interrupted, UserError
from pipeline.files import load_safetensors, sha256_of
from pipeline.images import batches, load_split
from pipeline.plan import Plan, Run
from pipeline.plan.entries import Entries
from pipeline.signals import StopRequest
from pipeline.trainer import Trainer
from pipeline.validate import accuracies

FILES = ("weights.safetensors", "best.safetensors", "history.csv", "run.json")
EMA = {"ema_decay": 0.9, "ema_start": 1}


def sums(run: Run) -> dict[str, str]:
    return {name: sha256_of(run.folder / name) for name in FILES}


def history(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader((run.folder / "history.csv").open()))


def changed(epochs: int = 3, **recipe: Any) -> dict[str, Any]:
    """Parameters whose rows share one recipe, the scale's epochs being the paper's."""
    found = tiny.params(epochs=epochs)
    found["recipes"]["unified"] |= {"epochs": epochs, "milestones": [1], "lr_values": [0.05]}
    found["recipes"]["unified"] |= recipe
    return found


def fit(plan: Plan, run: Run, *stops: int) -> None:
    """Train, interrupted by SIGTERM after these numbers of batches."""
    for stop in stops:
        trainer = Trainer(plan, run, tiny.CPU, None)
        trainer.method = tiny.StopAfter(trainer.method, stop)
        with pytest.raises(Interrupted, match=run.id):
            trainer.fit()
        assert not run.folder.exists()
    train.train(plan, run, tiny.CPU, None)


# ---- resume


@pytest.mark.slow
@pytest.mark.parametrize("row, members, recipe", [
    ("pgd_at", 1, {}),
    ("pgd_at", 1, EMA),
    ("pgd_at", 1, {**EMA, "ema_buffers": "averaged", "select": "lowest_train_loss"}),
    ("aute", 3, {}),
])  # fmt: skip
def test_an_interrupted_training_ends_in_the_same_bytes(
    tmp_path, monkeypatch, row, members, recipe
):
    found = []
    for name, stops in (("whole", ()), ("parts", (1, 2, 4))):  # in epochs 1, 1 and 2
        plan = tiny.place(tmp_path / name, monkeypatch, changed(**recipe))
        run = tiny.one_run(plan, row, members)
        fit(plan, run, *stops)
        found.append(sums(run))
        assert not Path("work/runs", run.id).exists()
    assert found[0] == found[1]


def command(run: Run) -> list[str]:
    return [sys.executable, "-m", "pipeline.train", run.id]


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(tiny.ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}


def start(run: Run) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(command(run), stdout=pipe, stderr=pipe, text=True, env=environment())


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte_and_sigterm_exits_with_75(tmp_path, monkeypatch):
    asked = changed(epochs=16, **EMA)
    asked["tables"]["table1"]["rows"] = ["pgd_at_single"]
    plan = tiny.place(tmp_path / "whole", monkeypatch, asked)
    run = tiny.one_run(plan, "pgd_at")
    fit(plan, run)
    expected = sums(run)

    tiny.place(tmp_path / "parts", monkeypatch, asked)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(run)
        assert process.stdout is not None and process.stdout.readline()  # an epoch has ended
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (75 if number == signal.SIGTERM else -number)
        if number == signal.SIGTERM:
            assert errors.startswith(f"stopped: {run.id}: saved in epoch")
        assert not run.folder.exists()
    last = start(run)
    last.communicate(timeout=60)
    assert last.returncode == 0 and sums(run) == expected


def test_other_work_before_it_does_not_change_a_training(tmp_path, monkeypatch):
    found = []
    for name, before in (("alone", ()), ("late", ("standard", "trades"))):
        plan = tiny.place(tmp_path / name, monkeypatch, changed(epochs=1))
        for row in before:
            tiny.trained(plan, row)
        torch.manual_seed(len(before))
        (run,) = tiny.trained(plan, "pgd_at")
        found.append(sums(run))
    assert found[0] == found[1]


def test_a_second_signal_acts_as_usual_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


# ---- what a training writes


def test_a_run_says_what_it_is_and_what_it_cost(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.params(epochs=2, validate_every=2))
    (run,) = tiny.trained(plan, "pgd_at")
    details = json.loads((run.folder / "run.json").read_text())
    assert details["id"] == run.id and details["spec"] == json.loads(json.dumps(run.spec))
    split = load_split(run.dataset, "train", tiny.CPU)
    (net,) = models.build_members(run.spec, split, tiny.CPU)
    forward, first = 2 * cost.count_macs(net, 1, 8), 2 * cost.count_macs(net.stem[0], 1, 8)
    attack = 2 * 2 * forward  # two steps, each a forward and a backward to the images
    per_image = attack + 3 * forward - first  # the first layer needs no gradient of its images
    assert details["flops"] == 2 * 120 * per_image and details["inherited"] == {}
    rows = history(run)
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert [r["val_clean"] != "" for r in rows] == [False, True]
    assert "seconds" not in details and "seconds" in (run.folder / "run.time.json").read_text()


def test_inherited_flops_count_every_run_once(tmp_path):
    def write(name: str, flops: int, inherited: dict[str, int]) -> Path:
        (tmp_path / name).mkdir()
        text = json.dumps({"id": name, "flops": flops, "inherited": inherited})
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
    assert sums(run)["best.safetensors"] == sums(run)["weights.safetensors"]
    assert history(run)[0]["val_robust"] == ""


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
        train.main([run.id[:-1]])


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
    plan = tiny.place(tmp_path, monkeypatch, changed(epochs=4, select=select))
    run = tiny.one_run(plan, "pgd_at")
    snapshots, rows = kept(plan, run), history(run)
    scores = [float(r["val_robust"]) for r in rows]
    assert best_epoch(run, snapshots) == 1 + scores.index(max(scores))
    found = [validated(plan, run, s, split) for s in snapshots]
    assert found == [(float(r["val_clean"]), float(r["val_robust"])) for r in rows]


def test_of_equal_epochs_the_earliest_is_kept(tmp_path, monkeypatch):
    for select, key in (("best_val", "val_robust"), ("lowest_train_loss", "loss")):
        plan = tiny.place(tmp_path / select, monkeypatch, changed(select=select))
        trainer = Trainer(plan, tiny.one_run(plan, "standard"), tiny.CPU, None)
        for epoch, value in enumerate([0.5, 0.25, 0.25, 0.5]):
            row = {"loss": 9.0, "val_robust": 0.1, key: value}
            trainer._select(row, {"epoch": torch.tensor(epoch)})
        assert trainer.best is not None
        assert trainer.best[1]["epoch"] == (0 if select == "best_val" else 1)


def test_the_lowest_train_loss_is_selected_where_asked(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, changed(epochs=3, select="lowest_train_loss"))
    run = tiny.one_run(plan, "standard")
    snapshots = kept(plan, run)
    losses = [float(r["loss"]) for r in history(run)]
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
    assert accuracies(net, split, darken, 0) == (right / len(split), both / len(split))
    assert accuracies(net, split, None, 0) == (right / len(split),) * 2


# ---- averages per step


def test_the_average_per_step_has_its_closed_form():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    recipe = models.recipe_of({"recipe": Entries(tiny.params()).recipe("unified", {})[0]})
    for buffers in ("copied", "averaged"):
        recipe = replace(recipe, ema_decay=0.75, ema_start=2, ema_buffers=buffers)
        ema, values = Ema([net], recipe), []
        for epoch in (1, 1, 2, 2, 3):
            with torch.no_grad():
                for tensor in (*net.parameters(), net[1].running_mean):
                    tensor.uniform_()
                net[1].num_batches_tracked += 1
            ema.update([net], epoch)
            values.append({n: v.clone().double() for n, v in net.state_dict().items()})
        found = ema.weights([net])
        for name, last in values[4].items():
            expected = 0.75**2 * values[2][name] + 0.75 * 0.25 * values[3][name] + 0.25 * last
            is_parameter = name in dict(net.named_parameters())
            is_mean = name.endswith("running_mean") and buffers == "averaged"
            expected = expected if is_parameter or is_mean else last
            assert torch.allclose(found[f"0.{name}"].double(), expected)
        again = Ema([net], recipe)
        again.restore(ema.state())
        assert all(torch.equal(v, again.weights([net])[n]) for n, v in found.items())


def test_an_average_per_step_is_what_is_validated_and_written(tmp_path, monkeypatch):
    recipe = {"ema_decay": 0.9, "ema_start": 2}
    plan = tiny.place(tmp_path, monkeypatch, changed(epochs=2, **recipe))
    run, plain = tiny.one_run(plan, "pgd_at"), changed(epochs=2)
    snapshots = kept(plan, run)
    found = validated(plan, run, snapshots[1], "validation")
    row = history(run)[1]
    assert found == (float(row["val_clean"]), float(row["val_robust"]))
    other = tiny.place(tmp_path / "plain", monkeypatch, plain)
    bare = kept(other, tiny.one_run(other, "pgd_at"))
    assert all(torch.equal(v, snapshots[0][n]) for n, v in bare[0].items())
    assert any(not torch.equal(v, snapshots[1][n]) for n, v in bare[1].items())


# ---- half precision


def test_in_half_precision_a_member_still_sees_its_peers_latest_weights(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, changed(precision="bf16", lr=0.5))
    run = tiny.one_run(plan, "aute", 3)
    one, other = (Trainer(plan, run, tiny.CPU, None) for _ in range(2))
    batch = next(batches(one.split, run.dataset, 32, 0, 1))
    for trainer in (one, other):
        trainer._set_rate(0.0)
        for member in trainer.training.members:
            member.train()
    one._step(batch)
    training, half = other.training, {"device_type": "cpu", "dtype": torch.bfloat16}
    with torch.autocast(**half):
        adversarial = training.craft(batch)
    for index in range(3):
        with torch.autocast(**half):
            losses = other.method.loss(training, index, batch, adversarial)
            assert losses.dtype == torch.float32
        training.update(index, losses)
    for a, b in zip(one.training.members, training.members, strict=True):
        assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


# ---- refusals, each one line


def line(raised: "pytest.ExceptionInfo[UserError]") -> str:
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> tuple[Plan, Run, Path]:
    """A training interrupted in its first epoch, and its resume state."""
    plan = tiny.place(tmp_path, monkeypatch, changed(epochs=1))
    run = tiny.one_run(plan, "standard")
    trainer = Trainer(plan, run, tiny.CPU, None)
    trainer.method = tiny.StopAfter(trainer.method, 1)
    with pytest.raises(Interrupted):
        trainer.fit()
    return plan, run, Path("work/runs", run.id, "state.pt")


DAMAGE = {
    "cut": lambda c: c[: len(c) // 2],
    "empty": lambda c: b"",
    "garbage": lambda c: b"garbage" * 100,
    "one bit": lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 1]) + c[len(c) // 2 + 1 :],
    "longer": lambda c: c + b"x",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_resume_state_is_refused(stopped, kind):
    plan, run, state = stopped
    state.write_bytes(DAMAGE[kind](state.read_bytes()))
    with pytest.raises(UserError) as raised:
        Trainer(plan, run, tiny.CPU, None)
    assert line(raised) == f"{state}: resume state is damaged; delete it to start again"


def test_a_resume_state_of_another_plan_is_refused(stopped):
    plan, run, state = stopped
    other = tiny.one_run(plan, "pgd_at")
    target = Path("work/runs", other.id, "state.pt")
    target.parent.mkdir()
    target.write_bytes(state.read_bytes())
    with pytest.raises(UserError) as raised:
        Trainer(plan, other, tiny.CPU, None)
    assert line(raised) == f"{target}: resume state is of another plan; delete it to start again"


def test_truncated_missing_or_foreign_weights_are_refused(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, changed(epochs=1))
    (run,) = tiny.trained(plan, "standard")
    split, path = load_split(run.dataset, "test", tiny.CPU), run.folder / "weights.safetensors"
    whole = path.read_bytes()
    (wide,) = models.build_members(
        {**run.spec, "arch": {**run.spec["arch"], "fields": fields(width=8)}}, split, tiny.CPU
    )
    with pytest.raises(UserError, match="do not fit this arch") as raised:
        checkpoint.load(path, [wide])
    line(raised)
    for content in (whole[:-10], b"", whole[:4]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or corrupt") as raised:
            models.load_members(plan, run, "last", split, tiny.CPU)
        assert "dvc pull" in line(raised) and str(path) in line(raised)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        models.load_members(plan, run, "last", split, tiny.CPU)


def fields(**other: Any) -> dict[str, Any]:
    return {"blocks": 1, "width": 4, "shortcut": "conv", "leaky": 0.0, **other}


@pytest.mark.parametrize("row", ["standard", "aute"])
def test_a_loss_that_is_no_number_stops_the_training(tmp_path, monkeypatch, row):
    plan = tiny.place(tmp_path, monkeypatch, changed(epochs=2, lr=10**30))
    run = tiny.one_run(plan, row, 2 if row == "aute" else 1)
    with pytest.raises(UserError, match="the loss is (nan|-?inf) in epoch 1; lower lr") as raised:
        train.train(plan, run, tiny.CPU, None)
    assert run.id in line(raised) and not run.folder.exists()


def test_more_images_than_there_are_and_a_batch_of_one_are_refused(tmp_path, monkeypatch):
    for key, value in (("train_images", 5000), ("batch_size", 1)):
        plan = tiny.place(tmp_path / key, monkeypatch, tiny.params(**{key: value}))
        with pytest.raises(UserError, match=f"params.yaml: .*{key}.*{value}") as raised:
            train.train(plan, tiny.one_run(plan, "standard"), tiny.CPU, None)
        line(raised)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(UserError, match="device is cuda but torch sees no GPU") as raised:
        device.select("cuda", 1)
    line(raised)


@contextmanager
def small_files(limit: int) -> Any:
    """No file may grow beyond `limit` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_the_old_files(stopped):
    plan, run, state = stopped
    before = state.read_bytes()
    with small_files(20_000), pytest.raises(UserError, match="cannot be written") as raised:
        train.train(plan, run, tiny.CPU, None)
    assert str(state) in line(raised)
    assert state.read_bytes() == before and list(state.parent.iterdir()) == [state]
    train.train(plan, run, tiny.CPU, None)
    assert math.isfinite(float(history(run)[0]["loss"]))


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_one_line(tmp_path, monkeypatch):
    asked = changed(epochs=1)
    plan = tiny.place(tmp_path, monkeypatch, asked)
    asked["tables"]["table1"]["rows"] = ["pgd_at_single"]
    Path("params.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    run = tiny.one_run(plan, "pgd_at")
    with small_files(20_000):
        found = subprocess.run(command(run), capture_output=True, text=True, env=environment())
    assert found.returncode == 1
    assert found.stderr.startswith("error: work/runs/") and found.stderr.count("\n") == 1
    assert not run.folder.exists() and not list(Path("work").rglob("*.tmp"))
