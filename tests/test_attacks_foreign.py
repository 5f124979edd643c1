"""torchattacks through the adapter: used as it is, without its side effects."""

import random

import numpy
import pytest
import torch
import torchattacks
from test_attacks_unbounded import Logs
from torch import nn
from victims import EPS, Exact, held_out, right, trained

from pipeline import registry
from pipeline.attacks.torchattacks import Torchattacks
from pipeline.errors import UserError
from pipeline.plan.entries import STAGES, Entries
from pipeline.plan.values import fraction


def foreign(name: str, as_published: bool = False, **arguments) -> Torchattacks:
    return Torchattacks(class_=name, norm="none", as_published=as_published, arguments=arguments)


FEW = {
    "PGD": dict(eps=EPS, alpha=EPS / 4),
    "CW": {},
    "DeepFool": dict(steps=5),
    "SparseFool": dict(steps=2),
    "OnePixel": dict(steps=2),
    "Pixle": dict(x_dimensions=[0.1, 0.2], y_dimensions=[0.1, 0.2], restarts=1),
    "DIFGSM": dict(eps=EPS),
    "EOTPGD": dict(eps=EPS),
    "APGD": dict(eps=EPS),
    "FAB": dict(eps=EPS),
    "Square": dict(eps=EPS, n_queries=20),
    "AutoAttack": dict(eps=EPS, seed=0),
}


@pytest.mark.parametrize("name", FEW)
def test_attacks_leave_models_and_generators_as_they_were_and_repeat(name, capsys) -> None:
    model = nn.Sequential(
        *[nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)]
    )
    model.train()
    model[1].eval()  # torchattacks switches a frozen batch norm to training mode
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = kept = torch.ones_like(model[4].weight)
    images, labels, draws = held_out(3)
    states = {key: value.clone() for key, value in model.state_dict().items()}
    generators = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate()
    moved = foreign(name, **FEW[name])(model, images, labels, draws)
    assert moved.shape == images.shape and not moved.requires_grad
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert all(torch.equal(value, states[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True, True]
    assert model[0].weight.grad is None and not model[0].weight.requires_grad
    assert model[4].weight.grad is kept and torch.equal(kept, torch.ones_like(kept))
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert numpy.random.get_state()[1].tolist() == generators[1]
    assert random.getstate() == generators[2]
    again = foreign(name, **FEW[name])(model, images, labels, held_out(3)[2])
    assert torch.equal(moved, again)
    assert capsys.readouterr().out == ""


def test_the_adapter_returns_what_the_library_returns() -> None:
    model = trained(EPS)
    images, labels, draws = held_out(20)
    ours = foreign("BIM", eps=EPS, alpha=EPS / 4, steps=4)(model, images, labels, draws)
    assert torch.equal(ours, torchattacks.BIM(model, EPS, EPS / 4, 4)(images, labels))


def test_their_cw_is_inert_on_log_probabilities_and_refused() -> None:
    model = Logs(trained(0.0))
    images, labels, draws = held_out(40)
    with pytest.raises(UserError, match="as_published"):
        foreign("CW")(model, images, labels, draws)
    inert = foreign("CW", as_published=True)(model, images, labels, draws)
    assert torch.equal(inert, images)
    awake = foreign("CW", c=10)(model.model, images, labels, draws)
    assert int(right(model, awake, labels).sum()) < 35


def test_their_deepfool_stops_on_the_boundary() -> None:
    """Surprise 4: what they return has no margin, and doubling the overshoot settles it."""
    model = trained(0.0)
    images, labels, draws = held_out(30)
    found = foreign("DeepFool")(model, images, labels, draws)
    with torch.no_grad():
        top = model(found).topk(2, dim=1).values
    assert float((top[:, 0] - top[:, 1]).median()) < 1e-3


@pytest.mark.parametrize("name", ["CW", "DeepFool", "Square", "APGD", "AutoAttack", "Pixle"])
def test_lucky_draws_are_refused_unless_published_so(name: str) -> None:
    model = Exact()
    model.random = True
    with pytest.raises(UserError, match="lucky draw"):
        foreign(name)(model, *held_out(2))
    foreign(name, as_published=True, **FEW[name])(model, *held_out(2))


def test_gradient_attacks_may_meet_a_random_model() -> None:
    model = Exact()
    model.random = True
    foreign("PGD", **FEW["PGD"])(model, *held_out(2))


@pytest.mark.parametrize(("name", "arguments"), [("Pixel", {}), ("PGD", {"step": 3})])
def test_unknown_classes_and_arguments_are_named(name: str, arguments: dict) -> None:
    with pytest.raises(UserError, match="Pixel|step"):
        foreign(name, **arguments)(Exact(), *held_out(2))


def entries(attacks: dict) -> Entries:
    core = dict.fromkeys(STAGES, 1)
    return Entries({"core": core, "scales": {"paper": {}}, "scale": "paper", "attacks": attacks})


def test_an_entry_names_a_class_and_its_arguments() -> None:
    root = {"norm": "none", "as_published": False}
    pixle = {"base": "torchattacks", "class": "Pixle", "x_dimensions": [0.1, 2]}
    pgd = {"base": "torchattacks", "class": "PGD", "norm": "linf", "eps": "8/255"}
    pgd |= {"alpha": "eps/4", "steps": 3, "random_start": False}
    found = entries({"torchattacks": root, "pixle": pixle, "pgd_t": pgd})
    spec = found.attack("pixle", fraction(2, "")).spec
    assert spec["fields"]["arguments"] == {"x_dimensions": [0.1, 2]}
    assert registry.build("attacks", spec).class_ == "Pixle"
    arguments = found.attack("pgd_t", fraction(2, "")).spec["fields"]["arguments"]
    assert arguments["eps"] == pytest.approx(16 / 255)
    assert arguments["alpha"] == pytest.approx(4 / 255)
    assert arguments["steps"] == 3 and arguments["random_start"] is False
    with pytest.raises(UserError, match="key class is missing"):
        found.attack("torchattacks", fraction(1, ""))


def test_autoattacks_parts_take_the_budgets_given() -> None:
    model, (images, labels, draws) = trained(0.0), held_out(2)
    attack = foreign("AutoAttack", eps=EPS, seed=0, steps=7, n_queries=9)
    parts = attack._build(torchattacks.AutoAttack, model)._autoattack.attacks
    assert [getattr(part, "steps", None) for part in parts] == [7, 7, 7, None]
    assert parts[3].n_queries == 9 and parts[3].eps == EPS
    plain = foreign("AutoAttack", eps=EPS, seed=0)
    assert plain._build(torchattacks.AutoAttack, model)._autoattack.attacks[0].steps == 10
    with pytest.raises(UserError, match="no argument 'n_queries'"):
        foreign("APGD", n_queries=3)(model, images, labels, draws)
