"""Checkpoints as people have them: taken as they are, or refused in one line that says why."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_foreign import net
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.loading import fitting, foreign
from pipeline.store.files import sha256_of


def fitted(loaded: Any, members: int = 1, **spec: Any) -> list[dict[str, Tensor]]:
    """What members have taken from a file."""
    path = Path("given.pt")
    torch.save(loaded, path)
    nets: list[nn.Module] = [net("cifar", 10, [0.4] * 3, [0.2] * 3) for _ in range(members)]
    fitting.adopt(nets, {"sha256": sha256_of(path), **spec}, [str(path)])
    return [member.state_dict() for member in nets]


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def given() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(net("cifar", 10).state_dict())


def with_extras(own: dict[str, Tensor]) -> dict[str, Tensor]:
    counts = {"total_ops": torch.zeros(1), "body.0.total_params": torch.zeros(1)}
    return own | counts | {"mu": torch.full((3, 1, 1), 0.4), "sigma": torch.full((3, 1, 1), 0.2)}


SHAPES = {
    "plain": lambda own: own,
    "state_dict": lambda own: {"state_dict": own, "epoch": 3},
    "DataParallel": lambda own: {"net": {f"module.{n}": v for n, v in own.items()}},
    "thop, normaliser": with_extras,
    "an epoch among the tensors": lambda own: own | {"epoch": 5, "arch": "resnet18", "best": None},
    "beside a history": lambda own: {"net": own, "log": [{"epoch": 1, "loss": torch.ones(())}]},
    "old torch": lambda own: {n: v for n, v in own.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_usual_files_are_taken_as_they_are(kind):
    own = given()
    (found,) = fitted(SHAPES[kind](own))
    assert found.keys() == own.keys()
    assert all(torch.equal(found[n], v) for n, v in own.items())


ENSEMBLES = {
    "model_0": lambda one, two: {"model_1": two, "model_0": one},
    "a word of one's own": lambda one, two: {"learner0": one, "learner1": two},
    "bare numbers": lambda one, two: {1: two, 0: one},
    "list": lambda one, two: [one, two],
    "tuple": lambda one, two: (one, two),
    "an epoch beside": lambda one, two: {"net0": one, "net1": two, "epoch": 5, "best": 0.5},
    "an optimiser beside": lambda one, two: {
        "member_0": one,
        "member_1": two,
        "optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": [{"params": [0]}]},
    },
    "each nested": lambda one, two: {
        "model_0": {"state_dict": one, "epoch": 3},
        "model_1": {"state_dict": two, "epoch": 3},
    },
    "a list of nested ones": lambda one, two: {
        "nets": [{"state_dict": one}, {"state_dict": two}],
        "epoch": 3,
    },
}


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_a_mapping_for_each_member_is_an_ensemble(kind):
    one, two = given(), {n: v + 1 for n, v in given().items()}
    found = fitted(ENSEMBLES[kind](one, two), 2)
    assert all(torch.equal(found[1][n], v + 1) for n, v in one.items())
    assert all(torch.equal(found[0][n], v) for n, v in one.items())


def without(name: str) -> dict[str, Tensor]:
    return {n: v for n, v in given().items() if n != name}


def containing_itself() -> dict[str, Any]:
    own: dict[str, Any] = {"epoch": 3}
    own["model"] = own
    return own


SEVERAL = r"several networks, {}; name one by `part`, or save them as model_0, model_1 where they"
REFUSED = [
    (containing_itself, "given.pt: cannot be read as plain weights: it contains itself"),
    (lambda: {"epoch_10": given(), "epoch_20": given()}, SEVERAL.format("epoch_10, epoch_20")),
    (
        lambda: {"models": {"epoch_1": given(), "epoch_2": given()}, "epoch": 2},
        SEVERAL.format("epoch_1, epoch_2"),
    ),
    (lambda: {"model_0": given(), "ema": given()}, SEVERAL.format("model_0, ema")),
    (lambda: without("head.bias"), r"fit this arch: 1 missing \(head.bias\); mend keys"),
    (lambda: given() | {"extra": torch.ones(2)}, r"1 unexpected \(extra\)"),
    (lambda: given() | {"head.bias": torch.ones(100)}, r"head.bias \(100,\) for \(10,\)"),
    (lambda: given() | {"mu": torch.full((3,), 0.5)}, r"mu is \[0.5, 0.5, 0.5\], the entry's"),
    (lambda: argparse.Namespace(a=1), "it wants argparse.Namespace, and nothing here runs code"),
    (lambda: {"epoch": 3, "best": 1.0}, r"no mapping from names to tensors \(but epoch, best\)"),
    (lambda: {"a": torch.ones(2, 2).to_sparse()}, "tensor a is sparse, quantised or empty"),
]


@pytest.mark.parametrize("loaded, text", REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_said_in_one_line(loaded, text):
    with pytest.raises(UserError, match=text) as raised:
        fitted(loaded())
    assert "delete" not in tiny.line(raised) and "\x1b" not in tiny.line(raised)


@pytest.mark.parametrize("kept", [0, 4, 1000, -5000])
def test_a_cut_or_empty_file_is_said_in_one_line(kept):
    torch.save(given(), "given.pt")
    path = Path("given.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="given.pt: cannot be read as plain weights") as raised:
        foreign.read(path)
    tiny.line(raised)


def test_parameters_are_taken_without_a_warning(recwarn):
    own = given()
    (found,) = fitted({n: nn.Parameter(v) if v.is_floating_point() else v for n, v in own.items()})
    assert all(torch.equal(found[n], v) for n, v in own.items()) and not recwarn.list
