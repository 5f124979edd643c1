"""What figures plot: surfaces at their centre, normalised directions, margins, groups, counts."""

import copy
import io
import itertools
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.figure
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from nets import RESNET8, build, draw_images
from torch import nn

from pipeline import figure as command
from pipeline.attacks.svgd import SVGD
from pipeline.core.ensemble import combine
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError
from pipeline.evaluation.verdicts import Evaluation
from pipeline.figures._exhibit import Loaded, Recorded
from pipeline.figures._surface import ALONE, WHOLE, losses, offsets
from pipeline.figures._surface import directions as plane_directions
from pipeline.figures.curves import Curves
from pipeline.figures.histogram import Histogram, distances
from pipeline.figures.image_landscape import ImageLandscape
from pipeline.figures.particles import Particles, losses_of, mean_distance
from pipeline.figures.peers import BOTH, MEMBER, PEERS, Peers, compare
from pipeline.figures.peers import NONE as NEITHER
from pipeline.figures.regions import CHOSEN, VICTIM, Regions, predictions
from pipeline.figures.trade_off import TradeOff
from pipeline.figures.weight_landscape import WeightLandscape, directions, moved
from pipeline.figures.weights import Weights, last_convolution
from pipeline.flags.evidence import Attack
from pipeline.loading.images import Split
from pipeline.methods.ps_red import _Generated

IMAGES = 6
PGD = {"norm": "linf", "eps": 0.1, "step_size": 0.03, "steps": 3, "restarts": 1,
       "start": "uniform", "loss": "ce", "any_iterate": False}  # fmt: skip
SPECS = {"pgd10": {"component": "pgd", "fields": PGD, "surrogate": "self"}}
SVGD_FIELDS = {"eps": 0.1, "step_size": 0.03, "steps": 3, "particles": 4, "kernel": "median"}
SVGD_FIELDS |= {
    "width": 0.001,
    "repulsion": 1.0,
    "is_balanced": True,
    "is_signed": True,
    "divided": "both",
}
SPECS |= {"svgd": {"component": "svgd", "fields": SVGD_FIELDS, "surrogate": "self"}}
SPECS |= {"svgd_pgd": copy.deepcopy(SPECS["svgd"])}
SPECS["svgd_pgd"]["fields"]["kernel"] = "none"


def nets(count):
    """Members of different weights, batch-norm statistics far from their initial ones."""
    found = []
    for number in range(count):
        net = build(RESNET8)
        torch.manual_seed(number)
        for name, value in net.state_dict().items():
            if "running_mean" in name:
                value.copy_(0.1 * torch.randn_like(value))
            elif "running_var" in name:
                value.copy_(torch.rand_like(value) + 0.5)
            elif value.is_floating_point():
                value.mul_(1 + 0.3 * torch.randn_like(value))
        found.append(net.eval().requires_grad_(False))
    return found


def loaded(rule="mean_prob", members=2, label="row"):
    images = (draw_images(batch=IMAGES) * 255).to(torch.uint8)
    split = Split(images, torch.arange(IMAGES) % 10, list("0123456789"), [0.4] * 3, [0.25] * 3)
    victim = combine(rule, nets(members)).eval()
    return Loaded(label, Evaluation(victim, split, list(range(IMAGES))), SPECS)


def at(frame, of=WHOLE, along=0.0, across=0.0):
    row = frame[(frame["of"] == of) & (frame["along"] == along) & (frame["across"] == across)]
    return float(row["loss"].iloc[0])


# ---- planes and surfaces


def test_a_grid_has_its_centre_and_ends():
    assert offsets(2) == [-1, -0.5, 0, 0.5, 1]
    with pytest.raises(UserError, match="half: 0 is no grid"):
        offsets(0)


@pytest.mark.parametrize("rule", ["mean_prob", "max_conf", "random_one"])
def test_the_centre_of_a_surface_over_images_is_the_plain_loss(rule):
    item = loaded(rule)
    kind = ImageLandscape(radius=0.2, half=1, images=IMAGES, members=1, seed=0)
    frame = kind.numbers([item])
    with torch.no_grad():
        own = cross_entropy(item.victim.members[0](item.images), item.labels)
    assert at(frame, "member 0") == float(own.mean())
    if rule == "random_one":  # the expectation, not one draw
        both = torch.stack(
            [cross_entropy(m(item.images), item.labels) for m in item.victim.members]
        )
        assert at(frame) == pytest.approx(float(both.mean()), rel=1e-6)
    else:
        assert at(frame) == float(item.evaluation.clean["loss"].mean())
    assert set(frame["of"]) == {"member 0", WHOLE} and len(frame) == 2 * 9


def test_directions_over_images_are_signs_and_the_first_one_is_uphill():
    item = loaded()
    steepest, random = plane_directions(item.victim, item.images, item.labels, item.ids, 0)
    assert set(random.unique().tolist()) == {-1.0, 1.0} and set(steepest.unique().tolist()) <= {
        -1.0,
        0.0,
        1.0,
    }
    kind = ImageLandscape(radius=0.001, half=1, images=IMAGES, members=0, seed=0)
    frame = kind.numbers([item])
    assert at(frame, along=-0.001) < at(frame) < at(frame, along=0.001)
    other = plane_directions(loaded(members=1).victim, item.images, item.labels, item.ids, 0)
    assert torch.equal(other[1], random) and not torch.equal(other[0], steepest)


def test_the_centre_of_a_surface_over_weights_is_the_loss_that_an_evaluation_records():
    item = loaded(members=1)
    fields = dict(span=1.0, half=1, images=IMAGES, members=0, seed=0)
    clean = WeightLandscape(attack="none", **fields).numbers([item])
    assert at(clean, ALONE) == float(item.evaluation.clean["loss"].mean())
    before = copy.deepcopy(item.victim.state_dict())
    attacked = WeightLandscape(attack="pgd10", **fields).numbers([item])
    assert all(torch.equal(v, before[k]) for k, v in item.victim.state_dict().items())
    item.evaluation.labels = item.victim(item.images).argmax(
        1
    )  # an evaluation attacks what is right
    item.evaluation.clean = item.evaluation._run_over(item.evaluation._judge, item.images, IMAGES)
    recorded = item.evaluation.attack("pgd10", SPECS["pgd10"], seed=0)["loss"]
    again = WeightLandscape(attack="pgd10", **fields).numbers([item])
    assert at(again, ALONE) == pytest.approx(float(recorded.mean()), rel=1e-6)
    assert at(attacked, ALONE) > at(clean, ALONE) and at(again, ALONE, along=1.0) != at(
        again, ALONE, along=-1.0
    )


def test_images_are_attacked_anew_at_every_point():
    item = loaded(members=1)
    kind = WeightLandscape(attack="pgd10", span=0.5, half=1, images=IMAGES, members=0, seed=0)
    found = at(kind.numbers([item]), ALONE, along=0.5, across=-0.5)
    ways = [directions(item.victim, 0, axis) for axis in (0, 1)]
    with moved(item.victim, (0.5, ways[0]), (-0.5, ways[1])):
        images = kind._images(item)
        here = float(losses(item.victim, images, item.labels)[1].mean())
    assert found == here
    assert not torch.equal(images, kind._images(item))


def test_a_net_that_generates_its_weights_moves_with_those_it_generates_from():
    net = _Generated(build(RESNET8), embedding=4, unit=0, init="he").eval().requires_grad_(False)
    victim = combine("single", [net])
    images = draw_images(batch=IMAGES)
    before = victim(images)  # generates, and keeps what it generated
    made = {n for n, _ in victim.named_parameters() if "hyper" in n or "embeddings" in n}
    step = {n: 0.5 * p if n in made else torch.zeros_like(p) for n, p in victim.named_parameters()}
    with moved(victim, (1.0, step)):
        there = victim(images)
        anew = copy.deepcopy(victim)
        anew.load_state_dict(victim.state_dict())  # as a checkpoint with these weights
        assert torch.equal(there, anew(images))
    assert not torch.allclose(there, before) and torch.equal(victim(images), before)


# ---- directions over weights


def test_a_direction_has_the_length_of_every_filter_and_leaves_biases_and_batch_norm():
    victim = loaded(members=2).victim
    found = directions(victim, seed=0, axis=0)
    seen = 0
    for name, weight in victim.named_parameters():
        if weight.ndim > 1:
            lengths = [p.flatten(1).norm(dim=1) for p in (found[name], weight)]
            assert torch.allclose(*lengths, rtol=1e-5) and len(lengths[0]) == weight.shape[0]
            seen += 1
        else:
            assert not found[name].any()
    assert seen > 10
    again, other = directions(victim, seed=0, axis=0), directions(victim, seed=0, axis=1)
    name = "members.0.classifier.weight"
    name = next(n for n, p in victim.named_parameters() if p.ndim > 1)
    assert torch.equal(found[name], again[name]) and not torch.equal(found[name], other[name])
    twin = name.replace("members.0", "members.1")
    assert not torch.allclose(found[name] / found[name].norm(), found[twin] / found[twin].norm())


def test_a_direction_is_gaussian_before_it_is_normalised():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 20000))

    found = directions(combine("single", [Wide()]), seed=0, axis=0)["members.0.weight"]
    assert found.shape == (3, 20000) and abs(float(found.mean())) < 0.02
    assert float(found.var()) == pytest.approx(1, abs=0.01)  # as long as ones: unit entries
    assert float(found.pow(4).mean()) == pytest.approx(3, abs=0.1)


class Pair(nn.Module):
    """A convolution, its batch-norm, a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=0)
        self.linear = nn.Linear(5, 10)
        self.norm.running_mean.normal_(), self.norm.running_var.uniform_(1, 2)

    def forward(self, images):
        return self.linear(self.norm(self.conv(images)).relu().mean((2, 3)))


def test_rescaling_a_convolution_and_its_batch_norm_does_not_change_the_picture():
    net = Pair().double()
    scaled = copy.deepcopy(net)
    factors = torch.tensor([0.1, 1.0, 3.0, 20.0, 400.0], dtype=torch.float64)
    with torch.no_grad():
        scaled.conv.weight *= factors.view(-1, 1, 1, 1)
        scaled.norm.running_mean *= factors
        scaled.norm.running_var *= factors**2
    images = draw_images().double()
    with torch.no_grad():
        surfaces = []
        for one in (net, scaled):
            victim = combine("single", [one.eval()])
            ways = [directions(victim, 0, axis) for axis in (0, 1)]
            found = []
            for sizes in ((0, 0), (0.5, 0), (-1, 1), (0.3, -0.7)):
                with moved(victim, *zip(sizes, ways, strict=True)):
                    found.append(victim(images))
            surfaces.append(torch.stack(found))
        unnormalised = [torch.ones_like(p) for p in (net.conv.weight,)]
        outputs = []
        for one in (net, scaled):  # the same step, not normalised, tells the two apart
            with moved(combine("single", [one.eval()]), (0.1, way(one, unnormalised[0]))):
                outputs.append(one(images))
    assert torch.allclose(*surfaces, rtol=1e-9) and not torch.allclose(*outputs, rtol=1e-2)
    assert not torch.allclose(surfaces[0][0], surfaces[0][1])


def way(net, step):
    names = {f"members.0.{name}": torch.zeros_like(p) for name, p in net.named_parameters()}
    return names | {"members.0.conv.weight": step}


# ---- margins, from records


def attack_of(name, spec=None, **arrays):
    found = {k: np.asarray(v, dtype=np.float32) for k, v in arrays.items()}
    return Attack(name, spec or {"component": "fgsm", "fields": {"eps": 0.1}}, found)


@pytest.mark.parametrize("scores", ["logits", "log_probs"])
def test_margins_of_probabilities_follow_from_recorded_losses_and_margins_of_scores(scores):
    torch.manual_seed(0)
    logits, labels = 4 * torch.randn(50, 10), torch.arange(50) % 10
    probs = logits.softmax(1)
    seen = logits if scores == "logits" else logits.log_softmax(1)
    rivals = seen.scatter(1, labels[:, None], -torch.inf).amax(1)
    recorded = attack_of(
        "clean",
        loss=cross_entropy(seen, labels).numpy(),
        margin=(seen[torch.arange(50), labels] - rivals).numpy(),
    )
    others = probs.scatter(1, labels[:, None], -1).amax(1)
    expected = (probs[torch.arange(50), labels] - others).numpy()
    assert distances(recorded) == pytest.approx(expected, abs=1e-6)


def test_a_histogram_counts_every_image_once_in_its_bin():
    p = np.array([0.95, 0.6, 0.5, 0.05])  # of two classes: D = 2 p - 1
    arrays = {"loss": -np.log(p), "margin": np.log(p / (1 - p)), "right": p > 0.5}
    item = recorded("row", attack_of("clean", **arrays))
    frame = Histogram(columns=["clean"], bins=4).numbers([item, item])
    assert frame["count"].tolist() == [2, 0, 4, 2] and frame["share"].sum() == 1
    assert frame["low"].tolist() == [-1, -0.5, 0, 0.5]
    certain = attack_of("clean", loss=[0.0, 90.0], margin=[95.0, -90.0])
    assert distances(certain).tolist() == [1.0, pytest.approx(-1.0)]


# ---- curves


def pgd_of(name, right, eps, goal=None, weight=None):
    fields = {**PGD, "eps": eps, "step_size": eps / 5}
    spec = {"component": "pgd", "fields": fields, "surrogate": "self"}
    if goal:
        fields = {"eps": eps, "step_size": eps / 5, "steps": 5, "restarts": 1, "goal": goal,
                  "weight": weight, "heard": "confident"}  # fmt: skip
        spec = {"component": "members_pgd", "fields": fields, "surrogate": "answers"}
    return attack_of(name, spec, right=right)


def curves(along="eps", show="each"):
    return Curves(along=along, symbol=along, spacing="linear", show=show)


VICTIMS = itertools.count()


def recorded(label, *attacks, **settings):
    """A row in its records, each a victim of its own."""
    return Recorded(label, str(next(VICTIMS)), settings, {a.name: a for a in attacks})


def test_a_sweep_is_one_line_whose_steps_follow_the_radius():
    item = recorded("a", pgd_of("pgd20_eps_0p1", [1, 0], 0.1), pgd_of("pgd20_eps_0", [1, 1], 0))
    frame = curves().numbers([item])
    assert frame[["attack", "eps", "accuracy"]].values.tolist() == [
        ["pgd20", 0.0, 1.0],
        ["pgd20", 0.1, 0.5],
    ]
    assert frame["images"].tolist() == [2, 2] and frame["seeds"].tolist() == [1, 1]


def adaptive(label="soe"):
    named = [("chosen_lower", 1.0, [0, 1, 1, 1]), ("chosen_lower_02", 0.2, [1, 1, 1, 1])]
    lower = [pgd_of(n, r, 0.1, "lower", w) for n, w, r in named]
    named = [("chosen_mismatch_04", 0.4, [0, 0, 1, 1]), ("chosen_mismatch_02", 0.2, [0, 1, 1, 1])]
    mismatch = [pgd_of(n, r, 0.1, "mismatch", w) for n, w, r in named]
    return recorded(label, pgd_of("pgd50_5", [1, 1, 1, 1], 0.1), *lower, *mismatch)


def test_attacks_are_found_by_what_varies_and_named_by_what_they_share():
    frame = curves("weight").numbers([adaptive()])
    assert frame[["attack", "weight", "accuracy"]].values.tolist() == [
        ["chosen_lower", 0.2, 1.0],
        ["chosen_lower", 1.0, 0.75],
        ["chosen_mismatch", 0.2, 0.75],
        ["chosen_mismatch", 0.4, 0.5],
    ]


def test_the_strongest_attack_of_every_row_alone_is_kept():
    item = adaptive("other")
    item.attacks["chosen_lower"].arrays["right"][:] = 0
    item.attacks["chosen_lower_02"].arrays["right"][:] = 0
    frame = curves("weight", "strongest").numbers([adaptive(), item])
    kept = {(row, attack) for row, attack in zip(frame["row"], frame["attack"], strict=True)}
    assert kept == {("soe", "chosen_mismatch"), ("other", "chosen_lower")} and len(frame) == 4


def test_the_worst_case_over_all_attacks_is_taken_image_by_image_and_seed_by_seed():
    seeds = ([1, 0, 1, 1], [0, 1, 1, 1]), ([1, 1, 1, 1], [1, 1, 1, 0])  # of two attacks each
    items = [
        recorded("a", pgd_of("p_eps_1", one, 1.0), pgd_of("q_eps_1", two, 1.0, "gate", 1.0))
        for one, two in seeds
    ]
    frame = curves(show="worst").numbers(items)
    assert frame[["attack", "eps", "accuracy", "seeds"]].values.tolist() == [
        ["worst case", 1.0, (0.5 + 0.75) / 2, 2]
    ]
    assert sorted(curves(show="each").numbers(items)["accuracy"]) == [0.75, 0.875]


def test_an_axis_of_the_table_is_a_line_and_seeds_are_averaged():
    items = [recorded("wa", pgd_of("p", right, 0.1), stop=stop)
             for stop, right in ((4.0, [1, 1]), (2.0, [1, 0]), (2.0, [0, 0]))]  # fmt: skip
    frame = curves("stop").numbers(items)
    assert frame[["stop", "accuracy", "seeds"]].values.tolist() == [[2, 0.25, 2], [4, 1, 1]]


def test_points_of_an_axis_that_a_scale_makes_one_victim_count_once():
    def item(victim, right, stop=2.0):
        return replace(recorded("wa", pgd_of("p", right, 0.1), stop=stop), victim=victim)

    frame = curves("stop").numbers([item("one", [1, 0]), item("one", [1, 0])])
    assert frame[["accuracy", "images", "seeds"]].values.tolist() == [[0.5, 2, 1]]
    frame = curves("stop").numbers([item("one", [1, 0]), item("two", [1, 1]), item("one", [1, 0])])
    assert frame[["accuracy", "seeds"]].values.tolist() == [[0.75, 2]]
    frame = curves("stop").numbers([item("one", [1, 0]), item("one", [1, 0], stop=4.0)])
    assert frame["seeds"].tolist() == [1, 1]  # other points


def test_equal_attacks_with_other_draws_are_lines_of_their_own_and_no_seeds():
    named = [("mpgd_eps_0p1", [1, 0]), ("mpgd_1_eps_0p1", [0, 1])]
    item, other = (
        recorded("a", *(pgd_of(name, right, 0.1) for name, right in named)) for _ in range(2)
    )
    frame = curves().numbers([item, other])
    assert frame[["attack", "accuracy", "seeds"]].values.tolist() == [
        ["mpgd", 0.5, 2],
        ["mpgd_1", 0.5, 2],
    ]
    assert curves(show="worst").numbers([item])["accuracy"].tolist() == [0]


def test_groups_of_other_settings_are_lines_of_their_own_whatever_their_names_share():
    """Twenty steps once and twenty steps of five restarts were two seeds of one point."""

    def steps(name, count, restarts, right):
        found = pgd_of(name, right, 0.1)
        found.spec["fields"] |= {"steps": count, "restarts": restarts}
        return found

    once = [steps("pgd10", 10, 1, [1, 1]), steps("pgd20", 20, 1, [1, 0])]
    often = [steps("pgd20_5", 20, 5, [0, 0]), steps("pgd50_5", 50, 5, [0, 0])]
    frame = curves("steps").numbers([recorded("a", *once, *often)])
    assert frame[["attack", "steps", "accuracy", "seeds"]].values.tolist() == [
        ["pgd10 to pgd20", 10, 1.0, 1],
        ["pgd10 to pgd20", 20, 0.5, 1],
        ["pgd20_5 to pgd50_5", 20, 0.0, 1],
        ["pgd20_5 to pgd50_5", 50, 0.0, 1],
    ]


def test_equal_names_of_other_rows_are_no_lines_to_tell_apart():
    """SoE's Fig. 5: rows of another radius of training have labels of their own."""
    rows = [
        recorded(label, *(pgd_of(f"chosen_{w}", [1, 0], eps, "lower", w) for w in (0.2, 0.4)))
        for label, eps in (("soe 0.1", 0.1), ("soe 0.2", 0.2))
    ]
    assert set(curves("weight").numbers(rows)["attack"]) == {"chosen"}


def test_settings_of_a_librarys_class_are_one_line():
    def pixle(name, restarts):
        fields = {"class_": "Pixle", "norm": "none", "as_published": False}
        spec = {
            "component": "torchattacks",
            "fields": fields | {"arguments": {"restarts": restarts}},
        }
        return attack_of(name, spec, right=[1, 0])

    frame = curves("restarts").numbers([recorded("a", pixle("pixle_1", 1), pixle("pixle_2", 2))])
    assert frame[["attack", "restarts"]].values.tolist() == [["pixle", 1], ["pixle", 2]]


def test_points_that_are_not_trusted_are_hollow_and_no_others(monkeypatch):
    frame = pd.DataFrame({"row": "a", "attack": "p", "stop": [1.0, 2.0], "accuracy": [0.5, 0.6],
                          "low": [0.4, 0.5], "high": [0.6, 0.7], "images": 2, "seeds": 1,
                          "flags": ["", "C22"], "not_trusted": ["", "C22"]})  # fmt: skip
    sheets = []
    drawing = "pipeline.figures.curves.drawn"
    monkeypatch.setattr(drawing, lambda size, title, paint: sheets.append(paint))
    curves("stop").draw(frame, "title")
    sheet = matplotlib.figure.Figure()
    sheets[0](sheet)
    assert [text.get_text() for text in sheet.axes[0].get_legend().texts] == ["a [C22]"]
    hollow = [
        x for line in sheet.axes[0].lines if line.get_mfc() == "white" for x in line.get_xdata()
    ]
    assert hollow == [2.0]


def test_what_varies_nowhere_is_refused():
    with pytest.raises(UserError, match="nothing that is shown varies in 'weight'"):
        curves("weight").numbers([recorded("a", pgd_of("p", [1], 0.1))])


def test_a_kind_whose_numbers_name_no_row_is_refused(monkeypatch):
    kind = SimpleNamespace(numbers=lambda shown: pd.DataFrame({"line": ["a"]}))
    monkeypatch.setattr(command.registry, "build", lambda *_: kind)
    monkeypatch.setattr(command, "recorded", lambda *_: [recorded("a")])
    plan = SimpleNamespace(entries=SimpleNamespace(device="cpu", threads=1))
    cells = [SimpleNamespace(victim=object())]
    spec = {"component": "sureness", "fields": {}}
    figure = SimpleNamespace(name="sure", cells=cells, kind=spec, reads_weights=False)
    with pytest.raises(UserError, match="^pipeline/figures/sureness.py: .* lacks the column row"):
        command.numbers(plan, figure)


# ---- members against their peers


def test_counts_and_margins_of_a_member_and_its_peers():
    member = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]).log_softmax(1)
    peers = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    both, alone, others, none, ours, theirs = compare(member, peers, torch.tensor([0, 0, 0, 1]))
    assert (both, alone, others, none) == (2, 1, 1, 0)
    assert ours == pytest.approx(np.tanh(1) / 2) and theirs == pytest.approx(np.tanh(0.5) / 2)


def test_peers_are_the_mean_probability_of_the_others_on_the_evaluations_images():
    item = loaded(members=3)
    frame = Peers(attack="pgd10", images=IMAGES).numbers([item])
    assert (frame[[BOTH, MEMBER, PEERS, NEITHER]].sum(axis=1) == IMAGES).all() and len(frame) == 6
    crafted, arrays = item.evaluation.crafted("pgd10", SPECS["pgd10"], 0)
    own = frame[frame["images"] == "pgd10"]
    right = (torch.from_numpy(arrays["members"]) == item.labels[:, None]).sum(0)
    assert (own[BOTH] + own[MEMBER]).tolist() == right.tolist()
    probs = torch.stack([m(crafted).softmax(1) for m in item.victim.members])
    peers = (probs[0] + probs[2]) / 2
    assert own[BOTH].iloc[1] + own[PEERS].iloc[1] == int((peers.argmax(1) == item.labels).sum())
    true = peers[torch.arange(IMAGES), item.labels]
    margins = true - peers.scatter(1, item.labels[:, None], -1).amax(1)
    assert own["peers_margin"].iloc[1] == pytest.approx(float(margins.mean()), abs=1e-5)
    with pytest.raises(UserError, match="row has one member and no peers"):
        Peers(attack="pgd10", images=IMAGES).numbers([loaded(members=1)])


# ---- regions


def test_regions_at_the_centre_are_the_victims_predictions():
    items = [loaded("mean_prob", label="together"), loaded("max_conf", label="chosen")]
    for item in items:
        item.evaluation.clean["right"][:] = torch.tensor([0, 1, 1, 0, 1, 1])
    frame = Regions(radius=0.2, half=2, shown=2, seed=0).numbers(items)
    assert sorted(frame["image"].unique()) == [1, 2] and len(frame) == 2 * 2 * 25
    for item in items:
        centre = frame[
            (frame["row"] == item.label) & (frame["along"] == 0) & (frame["across"] == 0)
        ]
        said = predictions(item, item.images[1:3])
        for name, values in said.items():
            assert centre[name].tolist() == values.tolist(), name
        assert centre[VICTIM].tolist() == item.victim(item.images[1:3]).argmax(1).tolist()
    chosen = frame[frame["row"] == "chosen"]
    assert (
        chosen[CHOSEN].isin([0, 1]).all()
        and (frame[frame["row"] == "together"][CHOSEN] == -1).all()
    )
    for number in (0, 1):  # who is chosen answers
        own = chosen[chosen[CHOSEN] == number]
        assert (own[VICTIM] == own[f"member {number}"]).all()


def test_regions_need_images_that_every_row_gets_right():
    item = loaded()
    item.evaluation.clean["right"][:] = 0
    with pytest.raises(UserError, match="all rows are right on 0 images alone, not on 1"):
        Regions(radius=0.2, half=1, shown=1, seed=0).numbers([item])


# ---- particles


def test_distances_of_particles_are_of_the_linf_norm_between_every_pair():
    points = torch.zeros(3, 2, 1, 2, 2)
    points[1, 0, 0, 0, 0], points[2, 0, 0, 1, 1] = 0.3, -0.1  # pairs 0.3, 0.1, 0.3; 0 for image 1
    assert mean_distance(points) == pytest.approx((0.7 / 3) / 2)


def test_particles_lie_in_one_ball_and_the_published_ones_cannot(monkeypatch):
    item = loaded(members=1)
    kind = Particles(attacks=["svgd", "svgd_pgd"], images=IMAGES, reported="at_aka", printed=1)
    frame = kind.numbers([item]).set_index("attack")
    assert (frame["distance"] <= 2 + 1e-5).all() and (frame["distance"] > 0).all()
    assert sorted(frame["rank"]) == [1, 2]
    assert frame["published_rank"].to_dict() == {"svgd": 1, "svgd_pgd": 2}
    assert not frame["published_is_possible"].any()
    assert frame.loc["svgd", "published_distance"] == pytest.approx(78.4 / 8)
    attack = SVGD(**SVGD_FIELDS)
    found = losses_of(item.victim, torch.stack([item.images] * 2), item.labels)
    assert torch.equal(found[0], cross_entropy(item.victim(item.images), item.labels))
    assert attack.particles == 4 and (frame["max_ce"] >= frame["mean_ce"]).all()


def test_an_attack_without_particles_is_refused():
    kind = Particles(attacks=["pgd10"], images=IMAGES, reported="at_aka", printed=1)
    with pytest.raises(UserError, match="pgd10 has no particles"):
        kind.numbers([loaded(members=1)])
    kind = Particles(attacks=["svgd"], images=IMAGES, reported="at_aka", printed=2)
    with pytest.raises(UserError, match="printed: table 2 of data/reported/at_aka.csv has no dist"):
        kind.numbers([loaded(members=1)])


# ---- weights


def test_weights_are_those_of_the_last_spatial_convolution_over_members_and_seeds():
    frame = Weights(bins=8).numbers([loaded(members=2), loaded(members=1)])  # two seeds
    net = loaded(members=1).victim.members[0]
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    name, layer = [(n, m) for n, m in layers if m.kernel_size == (3, 3)][-1]
    assert name.startswith("body.2.rest") and layers[-1][1].kernel_size == (1, 1), layers
    assert frame["count"].sum() == 3 * layer.weight.numel()
    own = layer.weight.double().flatten().numpy()
    assert np.array_equal(last_convolution(net), own)
    alone = Weights(bins=8).numbers([loaded(members=1)])
    assert alone["deviation"].iloc[0] == pytest.approx(own.std(), rel=1e-12)
    assert alone["count"].tolist() == np.histogram(own, bins=8)[0].tolist()
    assert (alone["low"].iloc[0], alone["high"].iloc[-1]) == (own.min(), own.max())


def test_rows_share_bins_over_all_their_weights():
    wide, narrow = loaded(members=1, label="wide"), loaded(members=1, label="narrow")
    for net in narrow.victim.members:
        for value in net.parameters():
            value.mul_(0.1)
    frame = Weights(bins=10).numbers([wide, narrow])
    rows = {row: own.reset_index(drop=True) for row, own in frame.groupby("row")}
    assert rows["wide"]["low"].equals(rows["narrow"]["low"])
    assert rows["narrow"]["deviation"].iloc[0] < 0.2 * rows["wide"]["deviation"].iloc[0]
    assert (rows["narrow"]["count"] > 0).sum() < (rows["wide"]["count"] > 0).sum()


def test_a_net_without_a_spatial_convolution_is_refused():
    with pytest.raises(UserError, match="Linear stores no weights of a convolution"):
        last_convolution(nn.Linear(2, 2))


# ---- pictures


def two():
    """Two victims that are taken to be right on every image."""
    found = [loaded("max_conf", label="a"), loaded(label="b")]
    for item in found:
        item.evaluation.clean["right"][:] = 1
    return found


def margins():
    p = np.linspace(0.05, 0.95, 9)
    arrays = {"loss": -np.log(p), "margin": np.log(p / (1 - p)), "right": p > 0.5}
    return [recorded("row", attack_of("clean", **arrays))]


OVER_IMAGES = ImageLandscape(radius=0.1, half=1, images=IMAGES, members=1, seed=0)
OVER_WEIGHTS = WeightLandscape(attack="none", span=1.0, half=1, images=4, members=0, seed=0)
PARTICLES = Particles(attacks=["svgd"], images=IMAGES, reported="at_aka", printed=1)
KINDS = {
    "curves": (curves("weight"), lambda: [adaptive()]),
    "histogram": (Histogram(columns=["clean"], bins=4), margins),
    "image_landscape": (OVER_IMAGES, two),
    "weight_landscape": (OVER_WEIGHTS, two),
    "peers": (Peers(attack="pgd10", images=IMAGES), two),
    "regions": (Regions(radius=0.1, half=2, shown=1, seed=0), two),
    "particles": (PARTICLES, lambda: [loaded(members=1)]),
    "weights": (Weights(bins=8), two),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_a_function_of_its_numbers_whatever_style_the_user_has(name):
    kind, items = KINDS[name]
    shown = items()
    frame = kind.numbers(shown)
    first = kind.draw(frame, "title")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        again = kind.draw(kind.numbers(shown), "title")
    assert first == again and set(first) == {".png", ".pdf"}
    for dated in (b"matplotlib", b"tIME", b"CreationDate"):
        assert not any(dated.lower() in content.lower() for content in first.values())
    pixels = matplotlib.image.imread(io.BytesIO(first[".png"]))
    assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.03
    assert kind.draw(frame, "another title") != first
    text = frame.to_csv(index=False)
    assert len(pd.read_csv(io.StringIO(text))) == len(frame)


def test_the_caption_says_what_stands_in_and_what_is_missing():
    cells = [SimpleNamespace(setting=SimpleNamespace(dataset="cifar10"), victim=v, row=r)
             for v, r in ((object(), "aute"), (None, "mart"), (None, "mart"))]  # fmt: skip
    figure = SimpleNamespace(cells=cells, spec={"title": "Margins"})
    stand_in = SimpleNamespace(stand_in=lambda name: ("digits", 6.375))
    plan = SimpleNamespace(entries=stand_in, scale="demo")
    assert command.caption(plan, figure) == (
        "Margins\nDigits for CIFAR-10 (eps x 6.375); scale demo; not yet available: MART"
    )


# ---- clean accuracy against the worst case


def both(label, clean, *attacks, members=3.0):
    """A row in records: clean verdicts, and those under attacks."""
    plain = Attack("clean", {"component": "clean", "fields": {}}, {"right": np.array(clean)})
    return recorded(label, plain, *attacks, members=members)


def test_a_trade_off_is_of_the_worst_case_of_every_image_and_of_all_seeds():
    first = both(
        "a x3", [1, 1, 1, 0], pgd_of("p", [1, 1, 0, 0], 0.1), pgd_of("q", [0, 1, 1, 0], 0.1)
    )
    second = both(
        "a x3", [1, 1, 0, 0], pgd_of("p", [1, 0, 0, 0], 0.1), pgd_of("q", [1, 1, 0, 0], 0.1)
    )
    larger = both("a x5", [1, 1, 1, 1], pgd_of("p", [1, 1, 1, 0], 0.1), members=5.0)
    frame = TradeOff().numbers([first, second, larger])
    assert frame[
        ["row", "method", "members", "clean", "worst", "images", "seeds"]
    ].values.tolist() == [
        ["a x3", "a", 3, 0.625, 0.25, 4, 2],
        ["a x5", "a", 5, 1.0, 0.75, 4, 1],
    ]
    pictures = TradeOff().draw(frame.assign(not_trusted=["C7", ""]), "A trade-off")
    assert (
        pictures[".png"]
        == TradeOff().draw(frame.assign(not_trusted=["C7", ""]), "A trade-off")[".png"]
    )
    assert pictures[".png"] != TradeOff().draw(frame.assign(not_trusted=""), "A trade-off")[".png"]


def test_a_trade_off_without_attacks_is_refused():
    with pytest.raises(UserError, match="needs suites"):
        TradeOff().numbers([both("a", [1])])
