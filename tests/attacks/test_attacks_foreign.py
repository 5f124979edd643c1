"""torchattacks through the adapter: used as it is, without its side effects."""

import inspect

import pytest
import torch
import torchattacks
from test_attacks_unbounded import Logs
from torch import Tensor, nn
from victims import EPS, Changed, Exact, Linear, held_out, right, saturated, state, trained

from pipeline.attacks.torchattacks import Torchattacks
from pipeline.core.draws import Draws
from pipeline.errors import UserError
from pipeline.loading import registry
from pipeline.plan.params.entries import STAGES, Entries
from pipeline.plan.params.values import fraction


def foreign(name: str, as_published: bool = False, norm: str = "", **arguments) -> Torchattacks:
    ball = norm or ("linf" if "eps" in arguments else "none")
    return Torchattacks(class_=name, norm=ball, as_published=as_published, arguments=arguments)


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
    before = state(model)
    moved = foreign(name, **FEW[name])(model, images, labels, draws)
    assert moved.shape == images.shape and not moved.requires_grad
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert state(model) == before and model[4].weight.grad is kept
    again = foreign(name, **FEW[name])(model, images, labels, held_out(3)[2])
    assert torch.equal(moved, again)
    assert capsys.readouterr().out == ""


# the least move of each pixel, and of what share of pixels
INWARD = {
    **{name: (dict(eps=EPS, alpha=EPS / 4), 0.99 * EPS, 1) for name in ("BIM", "PGD", "MIFGSM")},
    "FGSM": (dict(eps=EPS), 0.99 * EPS, 1),
    "EOTPGD": (dict(eps=EPS, alpha=EPS / 4), 0.99 * EPS, 1),
    "DIFGSM": (dict(eps=EPS, alpha=EPS / 4), 0.7 * EPS, 1),
    "APGD": (dict(eps=0.4), 0.39, 1),
    "AutoAttack": (dict(eps=0.4, seed=0, n_classes=5), 0.39, 1),
    "FAB": (dict(eps=0.4), 0.25, 1),
    "DeepFool": ({}, 0.25, 1),
    "Square": (dict(eps=0.4, n_queries=200), 0.39, 0.5),
}


@pytest.mark.parametrize("name", INWARD)
def test_their_attacks_move_saturated_pixels_inward(name: str) -> None:
    arguments, least, share = INWARD[name]
    model, images, labels = saturated(4 if name == "DIFGSM" else 1)
    moved = foreign(name, **arguments)(model, images, labels, Draws(0, torch.arange(6)))
    assert float(((moved - images).abs() >= least).float().mean()) >= share


def test_their_cw_holds_saturated_pixels() -> None:
    """Their arctanh of 1 is infinite: a reason to take cw_l2."""
    model, images, labels = saturated(1)
    moved = foreign("CW", c=10, steps=50, lr=0.1)(model, images, labels, held_out(6)[2])
    assert torch.equal(moved, images)


def coloured() -> tuple[nn.Module, Tensor, Tensor]:
    """Ten images of three channels and a model that is right on them."""
    model, images = Exact(pixels=192), torch.rand(10, 3, 8, 8, generator=torch.manual_seed(0))
    return model, images, model(images).argmax(1)


@pytest.mark.parametrize("pixels", [1, 3])
def test_onepixel_changes_as_many_pixels_at_most(pixels: int) -> None:
    model, images, labels = coloured()
    attack = foreign("OnePixel", pixels=pixels, steps=3)
    moved = attack(model, images, labels, Draws(0, torch.arange(10)))
    counts = (moved != images).any(1).flatten(1).sum(1)
    assert 0 < int(counts.max()) <= pixels


def test_pixle_only_rearranges_the_pixels_of_an_image() -> None:
    model, images, labels = coloured()
    attack = foreign("Pixle", x_dimensions=[2, 3], y_dimensions=[2, 3], restarts=4)
    moved = attack(model, images, labels, Draws(0, torch.arange(10)))
    changed = 0
    for before, after in zip(images, moved, strict=True):
        source = {tuple(pixel.tolist()) for pixel in before.flatten(1).T}
        assert {tuple(pixel.tolist()) for pixel in after.flatten(1).T} <= source
        changed += int((before != after).any(0).sum())
    assert changed > 10
    chance = [model(x).softmax(1).gather(1, labels[:, None]) for x in (images, moved)]
    assert bool((chance[1] <= chance[0] + 1e-6).all())


def test_sparsefool_changes_few_pixels_within_the_box() -> None:
    model = trained(0.0)
    images, labels, draws = held_out(20)
    moved = foreign("SparseFool")(model, images, labels, draws)
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    counts = (moved != images).flatten(1).sum(1)
    assert 0 < float(counts.float().median()) <= 12
    assert int(right(model, moved, labels).sum()) < 10
    weights = torch.zeros(2, 64)
    weights[0, 5] = 3.0  # only this pixel decides
    decided = Changed(Linear(weights), lambda logits: logits - torch.tensor([1.2, 0.0]))
    images = torch.full((2, 1, 8, 8), 0.5)
    moved = foreign("SparseFool")(decided, images, torch.tensor([0, 0]), Draws(0, torch.arange(2)))
    assert (moved != images).flatten(1).nonzero().tolist() == [[0, 5], [1, 5]]


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


@pytest.mark.parametrize(
    "name, arguments", [("SparseFool", dict(steps=2)), ("PGDL2", dict(eps=1, norm="l2"))]
)
def test_gradients_that_lie_channel_by_channel_are_no_hindrance(name: str, arguments: dict) -> None:
    """As a net's on a GPU do; these classes call `view` on them."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    images = torch.rand(4, 3, 8, 8)
    labels = net(images).argmax(1)
    far = net.to(memory_format=torch.channels_last)
    moved = foreign(name, **arguments)(far, images, labels, Draws(0, torch.arange(4)))
    assert moved.shape == images.shape and not torch.equal(moved, images)


class Flat(nn.Module):
    """Class 0 without any slope on dark images, a line on bright ones."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 2]."""
        rise = (images.flatten(1).mean(1) - 0.5).relu()
        return torch.stack([torch.full_like(rise, 0.1), rise], 1)


def test_an_image_of_which_deepfool_makes_nan_stays_clean(capsys) -> None:
    """It divides 0 by 0 there, in a net that was attacked at RED's settings."""
    images = torch.stack([torch.full((1, 4, 4), value) for value in (0.2, 0.55)])
    labels = torch.zeros(2, dtype=torch.int64)
    attack = foreign("DeepFool", steps=5)
    moved = attack(Flat(), images, labels, Draws(0, torch.arange(2)))
    assert torch.equal(moved[0], images[0])
    assert not torch.equal(moved[1], images[1]) and moved.isfinite().all()
    assert capsys.readouterr().out == (
        "torchattacks' DeepFool made NaN of 1 of 2 images, which stay clean\n"
    )


@pytest.mark.parametrize("name", ["CW", "DeepFool", "Square", "APGD", "AutoAttack", "Pixle"])
def test_lucky_draws_are_refused_unless_published_so(name: str) -> None:
    model = Exact()
    model.random = True
    with pytest.raises(UserError, match="lucky draw"):
        foreign(name, **FEW[name])(model, *held_out(2))
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


# ---- every argument reaches the class, or is refused by its name


@pytest.mark.parametrize("name", ["APGD", "APGDT", "FAB", "Square", "AutoAttack"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_norm_is_the_librarys_and_its_ball_is_kept(name: str, norm: str) -> None:
    model, (images, labels, draws) = trained(0.0), held_out(4)
    few = {"Square": {"n_queries": 100}, "AutoAttack": {"steps": 3, "n_queries": 20}}
    eps = 3.0 if norm == "l2" else 0.4
    attack = foreign(name, norm=norm, eps=eps, **few.get(name, {"steps": 3}))
    built = attack._build(getattr(torchattacks, name), model)
    assert built.norm == {"linf": "Linf", "l2": "L2"}[norm]
    change = (attack(model, images, labels, draws) - images).flatten(1)
    sizes = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    assert 0 < float(sizes.max()) <= eps + 1e-6


CLASSES = sorted(
    name
    for name, found in vars(torchattacks).items()
    if inspect.isclass(found) and name not in ("LGV", "MultiAttack")  # they take objects
)


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_of_every_class_reaches_it(name: str) -> None:
    parameters = list(inspect.signature(getattr(torchattacks, name)).parameters.values())[1:]
    taken: dict = {}

    def build(self, model, **given) -> None:
        taken.update(given)

    stated = {p.name: f"<{p.name}>" for p in parameters if p.name != "norm"}
    asked = {"eps" if n == "max_epsilon" else n: v for n, v in stated.items()}
    several = any(p.name == "norm" for p in parameters)
    norm = "l2" if several or name.endswith("L2") else "linf" if "eps" in asked else "none"
    attack = foreign(name, norm=norm, **asked)
    found = attack._find()
    fake = type(name, (), {"__init__": build, "__signature__": inspect.signature(found)})
    attack._build(fake, nn.Identity())
    assert taken == stated | ({"norm": "L2"} if several else {})


@pytest.mark.parametrize(
    ("name", "norm", "arguments", "text"),
    [
        ("PGD", "l2", {"eps": EPS}, "PGD has no norm l2: write norm: linf"),
        ("PGD", "none", {"eps": EPS}, "PGD has no norm none: write norm: linf"),
        ("PGDL2", "linf", {"eps": EPS}, "PGDL2 has no norm linf: write norm: l2"),
        ("AutoAttack", "none", {"eps": EPS}, "write norm: linf or l2"),
        ("CW", "l2", {}, "CW has no norm l2: write norm: none"),
        ("PGD", "linf", {}, "PGD needs its radius: add eps"),
        ("PIFGSM", "linf", {"max_epsilon": EPS}, "has no argument 'max_epsilon': it has eps"),
        ("TIFGSM", "linf", {"eps": EPS}, "knows images of 3 channels only, these have 1"),
        ("PIFGSM", "linf", {"eps": EPS}, "knows images of 3 channels only, these have 1"),
        ("PGD", "linf", {"eps": EPS, "steps": "word"}, "cannot attack this victim .TypeError"),
    ],
)
def test_what_a_class_cannot_take_is_refused_by_name(name, norm, arguments, text) -> None:
    with pytest.raises(UserError, match=f"params.yaml: attacks: torchattacks' .*{text}") as raised:
        foreign(name, norm=norm, **arguments)(trained(0.0), *held_out(2))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["PIFGSM", "TIFGSM"])
def test_on_coloured_images_they_keep_their_ball(name: str) -> None:
    model, images, labels = coloured()
    moved = foreign(name, eps=EPS)(model, images, labels, Draws(0, torch.arange(10)))
    assert 0 < float((moved - images).abs().max()) <= EPS + 1e-6


@pytest.mark.parametrize("name", ["GN", "Jitter"])
def test_what_returns_its_last_image_may_meet_a_random_model(name: str) -> None:
    model = Exact()
    model.random = True
    foreign(name, **({"eps": EPS} if name == "Jitter" else {}))(model, *held_out(2))


def test_autoattack_without_a_seed_repeats() -> None:
    model, (images, labels, draws) = trained(0.0), held_out(3)
    attack = foreign("AutoAttack", eps=EPS, steps=2, n_queries=9)
    assert attack._build(torchattacks.AutoAttack, model, 5).seed == 5
    assert torch.equal(attack(model, images, labels, draws), attack(model, *held_out(3)))
