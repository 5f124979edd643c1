"""`python -m pipeline names`: what a file has beside an arch, and the entry that reads it."""

from pathlib import Path

import others
import pytest
import tiny
import torch
import yaml
from torch import nn

from pipeline.errors import UserError
from pipeline.loading import fitting
from pipeline.loading.layouts import OWN
from pipeline.plan import Plan
from pipeline.tools import names

ENTRY = "  mine: "


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    tiny.place(tmp_path, monkeypatch)


def said(capsys, *words: str) -> str:
    names.main(list(words))
    return capsys.readouterr().out


def entry(text: str) -> dict:
    """The entry that the command prints."""
    (line,) = [line for line in text.splitlines() if line.startswith(ENTRY)]
    return yaml.safe_load(line.removeprefix(ENTRY))


def dverge() -> nn.Module:
    return others.Wrapped(others.CifarResNet([16, 32, 64], 3), [0.5, 0.4, 0.3], [0.2, 0.2, 0.25])


def test_the_map_and_the_entry_of_an_ensemble_are_shown(capsys):
    torch.save({f"model_{i}": dverge().state_dict() for i in range(3)}, "net.pth")
    text = said(capsys, "net.pth", "--arch", "resnet20")
    assert "3 network(s); beside resnet20" in text
    row = next(line for line in text.splitlines() if "layer2.0.shortcut.0.weight" in line)
    assert row.split()[-1] == "body.3.shortcut.0.weight" and "(32, 16, 1, 1)" in row
    assert "names: cifar pairs all 107 tensors" in text

    found = entry(text)
    assert (found["members"], found["names"], found["mean"]) == (3, "cifar", [0.5, 0.4, 0.3])
    asked = tiny.table_of(["standard", "mine"], reference="none")
    asked["victims"]["mine"] = found
    asked["scales"]["demo"]["stand_ins"] = {}
    asked["tables"]["table1"]["rows"] = ["mine"]
    (run,) = [run for run in Plan(asked).graph.runs.values() if run.stage == "adopt"]
    assert run.members == 3 and run.arch == "resnet20"


def test_what_is_never_executed_is_said(capsys):
    torch.save(others.Wide(5, 10, True).state_dict(), "wide.pt")
    text = said(capsys, "wide.pt", "--arch", "wrn34_10")
    assert "names: trades pairs all" in text and "(but sub_block1., never executed)" in text
    assert "does not say its mean and std" in text


def test_another_arch_is_refused_and_the_right_one_named(capsys):
    torch.save({"net": others.PreActResNet().state_dict()}, "net.pt")
    with pytest.raises(UserError, match="its tensors are those of preact_resnet18, ") as raised:
        said(capsys, "net.pt", "--arch", "resnet18")
    assert "missing" in tiny.line(raised) and "conv1.weight" in capsys.readouterr().out
    with pytest.raises(UserError, match="no entry 'resnet19'"):
        said(capsys, "net.pt", "--arch", "resnet19")
    with pytest.raises(UserError, match="nothing.pt: is no file"):
        said(capsys, "nothing.pt", "--arch", "resnet18")


def test_files_of_members_and_dropped_tensors(capsys):
    for i in range(2):
        own = {**dverge().state_dict(), "head.weight": torch.ones(2)}
        torch.save({"state_dict": own}, f"net.pth.tar.{i}")
    words = ["net.pth.tar.0", "net.pth.tar.1", "--arch", "resnet20", "--drop", "head."]
    found = entry(said(capsys, *words))
    assert found["file"] == ["net.pth.tar.0", "net.pth.tar.1"] and found["drop"] == ["head."]
    assert len(set(found["sha256"])) == 2 and found["members"] == 2


def test_our_own_names_need_no_layout(capsys):
    plan = Plan(tiny.params())
    (run,) = tiny.trained(plan, "standard")
    text = said(capsys, str(run.weights), "--arch", run.arch, "--dataset", "digits")
    assert f"names: {OWN} pairs all" in text and "names" not in entry(text)
    assert Path(entry(text)["file"]) == run.weights


def test_what_would_fit_without_some_tensors_or_of_another_data_set_is_said(capsys):
    own = dverge().state_dict()
    head = {f"module.{name}": value for name, value in own.items()} | {"proj": torch.ones(2)}
    for extra in ({**own, "aux.0.weight": torch.ones(2)}, head):
        torch.save(extra, "net.pt")
        with pytest.raises(UserError, match=r"without (aux\.|proj) it fits: add --drop") as raised:
            said(capsys, "net.pt", "--arch", "resnet20")
        words = tiny.line(raised).rpartition("add ")[2].split()
        assert "names: cifar pairs" in said(capsys, "net.pt", "--arch", "resnet20", *words)

    net = others.CifarResNet([16, 32, 64], 3)
    net.linear = nn.Linear(64, 100)
    torch.save(net.state_dict(), "net.pt")
    with pytest.raises(UserError, match="100 classes apart, unlike cifar10's; add --dataset cifar"):
        said(capsys, "net.pt", "--arch", "resnet20")
    assert "pairs all" in said(capsys, "net.pt", "--arch", "resnet20", "--dataset", "cifar100")


def members(*outer: str) -> dict[str, torch.Tensor]:
    """Three of them numbered in one mapping, each with a normaliser, as ModuleList saves them."""
    named = nn.ModuleList([dverge() for _ in range(3)]).state_dict()
    return {"".join(outer) + name: value for name, value in named.items()}


@pytest.mark.parametrize("outer", [(), ("module.", "models."), ("net_",)])
def test_members_of_one_mapping_have_each_its_network_and_its_statistics(capsys, outer):
    torch.save(members(*outer), "e.pth")
    text = said(capsys, "e.pth", "--arch", "resnet20")
    assert "3 network(s); beside resnet20" in text
    assert (entry(text)["members"], entry(text)["mean"]) == (3, [0.5, 0.4, 0.3])
    networks = fitting.prepare_networks(names.describe_files(["e.pth"]), ["e.pth"], 3)
    means = [network.statistics["mean"] for network in networks]
    assert means == [("normalizer.mean", [0.5, 0.4, 0.3])] * 3


def test_a_normaliser_beside_the_members_is_that_of_all(capsys):
    named = {n: v for n, v in members("net.").items() if "normalizer" not in n}
    torch.save(named | {"norm.mean": torch.ones(3), "norm.std": torch.ones(3)}, "e.pth")
    text = said(capsys, "e.pth", "--arch", "resnet20")
    assert (entry(text)["members"], entry(text)["mean"]) == (3, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("extra", ["1.head.weight", "net.1.head.weight"])
def test_nobody_is_told_to_drop_an_ensembles_other_members(capsys, extra):
    """Of one that is no ensemble of equals, and of one whose members stand below a name."""
    torch.save(members(extra.rpartition("1.")[0]) | {extra: torch.ones(2)}, "e.pth")
    with pytest.raises(UserError, match="no arch here fits it") as raised:
        said(capsys, "e.pth", "--arch", "resnet20")
    assert "--drop" not in tiny.line(raised)

    equal = {n: v for n, v in members().items() if "normalizer" not in n}
    torch.save(equal | {"fc.weight": torch.ones(2)}, "e.pth")
    with pytest.raises(UserError, match=r"without fc\. it fits: add --drop fc\.$"):
        said(capsys, "e.pth", "--arch", "resnet20")
    assert "3 network(s)" in said(capsys, "e.pth", "--arch", "resnet20", "--drop", "fc.")
