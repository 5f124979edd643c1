"""Members that start from the user's own weights: what they take, what is refused, and rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from pipeline import tabulate, train
from pipeline.archs.resnet18 import ResNet18
from pipeline.core.layers import Net
from pipeline.errors import UserError
from pipeline.loading import fitting, models
from pipeline.loading.images import load_split
from pipeline.plan import Plan
from pipeline.store.files import sha256_of

EDGES = {"stem.0": "conv1", "stem.1": "bn1", "head": "fc"}
PARTS = {"first.0": "conv1", "first.1": "bn1", "rest.1.0": "conv2", "rest.1.1": "bn2"}


def net(stem: str, classes: int, mean: Any = (0.0,) * 3, std: Any = (1.0,) * 3) -> Net:
    arch = ResNet18(stem=stem, stem_bias=stem == "cifar", init="fan_in")
    return arch.build(classes=classes, channels=3, size=32, mean=list(mean), std=list(std))


def torchvision_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What torchvision calls the tensors of our ResNet-18 with ImageNet's stem."""
    found = {}
    for name, value in weights.items():
        head, _, last = name.rpartition(".")
        if head in EDGES:
            head = EDGES[head]
        else:
            _, block, part = head.split(".", 2)
            stage, number = divmod(int(block) - 1, 2)  # the stem's pool is block 0
            part = PARTS.get(part, part.replace("shortcut", "downsample"))
            head = f"layer{stage + 1}.{number}.{part}"
        found[f"{head}.{last}"] = value
    return found


def test_the_names_are_torchvisions():
    names = torchvision_names(net("imagenet", 1000).state_dict())
    assert len(names) == 122 and names["conv1.weight"].shape == (64, 3, 7, 7)
    assert names["layer4.1.bn2.running_var"].shape == (512,)
    assert names["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert "layer1.0.downsample.0.weight" not in names and names["fc.bias"].shape == (1000,)


@pytest.mark.parametrize("stem, drawn", [("cifar", 4), ("imagenet", 2)])  # head, stem with bias
def test_an_imagenet_resnet18_gives_all_but_what_has_another_shape(tmp_path, stem, drawn):
    source, path = net("imagenet", 1000), tmp_path / "resnet18.pth"
    torch.save(torchvision_names(source.state_dict()), path)
    spec = {"sha256": sha256_of(path), "names": "torchvision", "fresh": ["stem.", "head."]}
    member = net(stem, 10)
    before = {k: v.clone() for k, v in member.state_dict().items()}
    fitting.start([member], spec, [str(path)])
    theirs, shift = source.state_dict(), 0 if stem == "imagenet" else 1
    kept = 0
    for name, value in member.state_dict().items():
        parts = name.split(".")
        if parts[0] == "body":
            parts[1] = str(int(parts[1]) + shift)
        there = theirs.get(".".join(parts))
        same = there is not None and there.shape == value.shape
        assert torch.equal(value, there if same else before[name])
        kept += not same
    assert kept == drawn


def test_what_does_not_fit_is_refused_by_the_tensors_name(tmp_path):
    weights = torchvision_names(net("imagenet", 1000).state_dict())
    path = tmp_path / "resnet18.pth"

    def start(fresh: list[str], **changed: Tensor) -> None:
        kept = {**weights, **changed}
        torch.save(kept, path)
        spec = {"sha256": sha256_of(path), "names": "torchvision", "fresh": fresh}
        fitting.start([net("imagenet", 10)], spec, [str(path)])

    start(["head."])
    with pytest.raises(
        UserError, match=r"resnet18\.pth: .* fit this arch: 2 of another shape \(he"
    ):
        start([])
    with pytest.raises(UserError, match=r"1 of another shape \(body\.1\.first\.0\.weight \(0,\)"):
        start(["head."], **{"layer1.0.conv1.weight": torch.ones(0)})
    with pytest.raises(UserError, match=r"shape \(body\.2\.first\.0\.weight"):
        start(["head."], **{"layer1.1.conv1.weight": torch.ones(64, 64, 5, 5)})
    with pytest.raises(UserError, match=r"1 unexpected \(surplus\)"):
        start(["head."], surplus=torch.ones(3))


def asked(path: Path, **changed: str) -> dict:
    found = tiny.params(epochs=2)
    entry = {"file": str(path), "sha256": "none", "names": "ours", "fresh": ["head."], **changed}
    found["weights"] = {"mine": entry}
    found["methods"]["warm"] = {"base": "pgd_at", "weights": "mine"}
    for name in ("red_pretrained", "red_pretrained_at", "red_pretrained_stem"):
        del found["methods"][name]
    found["victims"]["warm_twice"] = {"of": "warm", "logit_scale": 2}
    found["tables"]["table1"] |= {"rows": ["pgd_at", "warm", "warm_twice"], "members": [1]}
    found["tables"]["table1"]["reference"] = "none"
    return found


def test_a_run_starts_from_them_and_their_sum_is_part_of_its_name(tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    plan = tiny.place(tmp_path, monkeypatch, asked(path))
    (run,) = tiny.trained(plan, "standard")
    split = load_split(run.dataset, "train", tiny.CPU)
    (source,) = models.load_members(plan, run, "last", split, tiny.CPU)
    torch.save(source.state_dict(), path.with_suffix(".pt"))
    ids, given = set(), path.with_suffix(".pt")
    for sha in (sha256_of(given), "0" * 64):
        (warm,) = tiny.runs(Plan(asked(given, sha256=sha)), "warm")
        ids.add(warm.id)
    assert len(ids) == 2 and str(given) not in str(warm.spec)
    plan = Plan(asked(given, sha256=sha256_of(given), file=str(given)))
    (warm,) = tiny.runs(plan, "warm")
    from_there, from_scratch = (
        train.Trainer(plan, r, tiny.CPU, None).training.members[0].state_dict()
        for r in (warm, tiny.one_run(plan, "pgd_at"))
    )
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in from_there.items())
    assert any(not torch.equal(v, from_there[k]) for k, v in from_scratch.items())
    given.unlink()
    with pytest.raises(UserError, match=r"mine\.pt: is missing; put it there"):
        train.train(plan, warm, tiny.CPU, None)


def test_without_a_file_the_row_stands_in_the_table_and_says_what_it_lacks(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, asked(tmp_path / "mine.pt"))
    tiny.made(plan, ["pgd_at"])
    text = tabulate.tabulate(plan, plan.table("table1"), False)
    rows = json.loads(Path("results/table1.json").read_text())["rows"]
    status = {label: row["status"] for label, row in rows.items()}
    assert status == {"pgd_at": "done", "warm": "needs weights", "warm_twice": "needs weights"}
    assert "| warm | needs weights |" in text
    with pytest.raises(UserError) as caught:
        tiny.runs(plan, "warm")
    assert str(caught.value) == (
        "params.yaml: weights.mine.sha256: is none; warm starts from your own "
        f"{tmp_path}/mine.pt: put it there and write its sha256"
    )
