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
    "old torch": lambda own: {n: v for n, v in own.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_usual_files_are_taken_as_they_are(kind):
    own = given()
    (found,) = fitted(SHAPES[kind](own))
    assert found.keys() == own.keys()
    assert all(torch.equal(found[n], v) for n, v in own.items())


@pytest.mark.parametrize("kind", ["model_0", "list"])
def test_a_mapping_for_each_member_is_an_ensemble(kind):
    one, two = given(), {n: v + 1 for n, v in given().items()}
    found = fitted([one, two] if kind == "list" else {"model_1": two, "model_0": one}, 2)
    assert all(torch.equal(found[1][n], v + 1) for n, v in one.items())
    assert all(torch.equal(found[0][n], v) for n, v in one.items())


def without(name: str) -> dict[str, Tensor]:
    return {n: v for n, v in given().items() if n != name}


REFUSED = [
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
