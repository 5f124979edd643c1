"""Each check of docs/flags.md on verdicts that are planted: just enough, and not quite."""

import copy
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation_flags import APGD, PGD, spec, split
from torch import Tensor
from victims import EPS, Exact, trained

from pipeline.core.ensemble import Combination, MeanProb, Single
from pipeline.errors import UserError
from pipeline.evaluate import fingerprint
from pipeline.evaluation.verdicts import Evaluation
from pipeline.flags import consistency as orders
from pipeline.flags import masking as symptoms
from pipeline.flags.evidence import Evidence, check_budget
from pipeline.flags.flags import CHECKS, Flag, flags, notes, untrusted
from pipeline.loading import registry
from pipeline.loading.images import Split
from pipeline.store.records import Arrays

IMAGES = 2000
NOISE = spec("noise", norm="linf", eps=EPS, tries=10)
WHOLE = spec("autoattack", eps=EPS, steps=100, targets=9, queries=5000)

Verdicts = np.ndarray[Any, np.dtype[np.float32]]
Suite = dict[str, tuple[dict[str, Any], Verdicts]]  # spec and verdicts by attack


def first(count: int) -> Verdicts:
    """Right on the first so many images."""
    return (np.arange(IMAGES) < count).astype(np.float32)


def pgd(surrogate: str = "averaged", **changed: Any) -> dict[str, Any]:
    return spec("pgd", surrogate, **{**PGD, **changed})


def theirs(kind: str, **arguments: Any) -> dict[str, Any]:
    fields = {"norm": "linf", "as_published": True, "class": kind}
    return spec("torchattacks", "self", **fields, arguments={"eps": EPS, **arguments})


def planted(*suites: Suite, cascades: tuple[Suite, ...] = (), **about: Any) -> Evidence:
    """Evidence of suites of a victim that is right on all clean images; cascades leave."""
    records = []
    for leave, suite in [*((False, s) for s in suites), *((True, s) for s in cascades)]:
        said = {"suite": "planted", "weights": {}, "spec": {"leave": leave}, **about}
        arrays = {"meta": np.array(json.dumps(said)), "ids": np.arange(IMAGES)}
        arrays |= {"labels": np.arange(IMAGES) % 10, "clean/right": first(IMAGES)}
        standing = np.full(IMAGES, True)
        for name, (_, right) in suite.items():
            arrays |= {f"{name}/right": right, f"{name}/asked": standing}
            standing = standing & (right > 0) if leave else standing
        records.append((arrays, [(name, asked) for name, (asked, _) in suite.items()]))
    return Evidence(records)


def judge(found: Evidence, check: str) -> list[Flag]:
    """Flags of one check alone: the others need more than verdicts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.flags.flags.CHECKS", {check: CHECKS[check]})
        return flags(found)


# ---- C1


def coloured(side: int) -> tuple[Combination, Split]:
    """A victim of 3 x side x side images that is right on all of them, and the images."""
    victim = Single([Exact(pixels=3 * side**2).requires_grad_(False)]).eval()
    generator = torch.Generator().manual_seed(side)
    images = torch.randint(0, 256, (60, 3, side, side), generator=generator).to(torch.uint8)
    labels = victim(images.float() / 255).argmax(1)
    return victim, Split(images, labels, [str(i) for i in range(10)], [0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize("side", [32, 64])
def test_float32_sums_are_no_overshoot_in_l1_and_a_larger_ball_is(side: int) -> None:
    found = Evaluation(*coloured(side), list(range(60)))
    largest = []
    for eps in (12.0, 12.0012):
        asked = spec("pgd_l1", norm="l1", eps=eps, step_size=1.0, steps=20, share=0.05)
        arrays = {f"l1/{k}": v for k, v in found.attack("l1", asked, 0).items()}
        largest.append(float(arrays["l1/l1"].max()))
        stated = (("l1", {**asked, "fields": {**asked["fields"], "eps": 12.0}}),)
        if eps == 12:
            check_budget(arrays, stated, "record")
        else:
            with pytest.raises(UserError, match="l1 left its ball"):
                check_budget(arrays, stated, "record")
    assert 1e-6 < largest[0] - 12 < 1e-4 < 1e-3 < largest[1] - 12


# ---- C2 to C9


@pytest.mark.parametrize(
    ("noise", "attack", "text"),
    [(1900, 1700, "random noise costs 5.0 points"), (1970, 1990, "attack is 1.0 points weaker")],
)
def test_noise_that_costs_and_an_attack_weaker_than_noise(noise, attack, text) -> None:
    def texts(*counts: int) -> list[str]:
        rights = [first(count) for count in counts]
        return list(
            orders.noise(planted({"noise": (NOISE, rights[0]), "attack": (pgd(), rights[1])}))
        )

    assert texts(1970, 1970) == texts(1900, 900) == []  # small pixels: attacks cost 11 times that
    (found,) = texts(noise, attack)
    assert text in found


def test_a_hundred_steps_that_have_not_converged() -> None:
    def texts(few: int, left: int, many: int = 500) -> list[str]:
        suite = {"few": (pgd(steps=few), first(1000)), "many": (pgd(steps=many), first(left))}
        return list(orders.steps(planted(suite)))

    assert texts(100, 990) == texts(50, 900) == []
    assert texts(100, 900) == ["few has not converged: many finds 5.0 points"]
    assert texts(500, 900, many=1000) == texts(101, 900) == []  # not five times as many


def test_restarts_are_compared_whatever_iterate_they_keep() -> None:
    def texts(*, surrogate: str = "averaged", random: bool = False, **changed: Any) -> list[str]:
        several = pgd("averaged", restarts=5, any_iterate=True, **changed)
        suite = {"one": (pgd(surrogate), first(1000)), "several": (several, first(900))}
        return list(orders.restarts(planted(suite, random=random)))

    assert texts() == texts(surrogate="self") == ["several finds 5.0 points more than one"]
    assert texts(step_size=EPS / 4) == texts(steps=100) == []
    assert texts(surrogate="self", random=True) == []  # another model, too
    assert texts(random=True) != []


@pytest.mark.parametrize(
    ("eps", "fine", "fires", "text"),
    [
        (0, IMAGES, IMAGES - 1, "radius 0 changes verdicts"),
        (64 / 255, 110, 160, "nothing survives, leaves 8 %"),
        (63 / 255, 160, None, ""),
        (1, 200, 240, "the whole box, leaves 12 %"),
    ],
)
def test_radii_at_which_the_answer_is_known(eps, fine, fires, text) -> None:
    def texts(count: int) -> list[str]:
        other = 0.001 if eps == 0 else 0.1
        suite = {"wide": (pgd(eps=eps), first(count)), "other": (pgd(eps=other), first(count))}
        return list(orders.radii(planted(suite)))

    assert texts(fine) == []
    if fires:
        (found,) = texts(fires)
        assert found.startswith("wide") and text in found


def test_torchattacks_autoattack_is_judged_by_its_own_budgets() -> None:
    def found(whole: Any, part: Any, **about: Any) -> list[Flag]:
        suite = {"whole": (whole, first(1000)), "part": (part, first(900))}
        return judge(planted(suite, **about), "C8")

    ten, twenty = pgd("self", steps=10), pgd("self", steps=20)
    for whole, part in [
        (theirs("AutoAttack"), ten),
        (theirs("AutoAttack"), theirs("PGD")),
        (theirs("AutoAttack", steps=20), twenty),
        (theirs("AutoAttack", n_queries=200), theirs("Square", n_queries=200)),
        (WHOLE, spec("apgd", **APGD)),
    ]:
        (flag,) = found(whole, part)
        assert flag.fails and flag.text == "whole leaves 5.0 points more than part"
        (flag,) = found(whole, part, random=True)
        assert not flag.fails and "lucky draw" in flag.text
    assert found(theirs("AutoAttack"), twenty) == []
    assert found(theirs("AutoAttack", n_queries=200), theirs("Square")) == []


def test_nobody_comes_back_in_a_suite_that_leaves() -> None:
    back = first(1000)
    back[1500] = 1
    early: Suite = {"early": (pgd(), first(1000))}
    late: Suite = {"late": (pgd(steps=20), back)}

    def found(*suites: Suite, **about: Any) -> list[Flag]:
        return judge(planted(*suites, **about), "C9")

    assert found(early | late) == found(cascades=(early | late,), random=True) == []
    assert found(cascades=(early, late)) == []  # each suite asks everybody
    (flag,) = found(cascades=(early | late,))
    assert flag.fails and flag.text == "late is right where the victim is wrong under early"


# ---- C10


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("strong", [spec("apgd", **APGD), WHOLE, theirs("AutoAttack")])
def test_a_worst_case_that_finds_nothing_beyond_pgd(strong: Any, leave: bool) -> None:
    def texts(count: int, left: int = 1000) -> list[str]:
        plain: Suite = {"pgd": (pgd(), first(left)), "noise": (NOISE, first(IMAGES))}
        whole: Suite = {"strong": (strong, first(count))}
        suites = planted(plain, cascades=(whole,)) if leave else planted(plain | whole)
        return list(symptoms.gap(suites))

    assert texts(1000) == ["the worst case finds nothing that pgd does not"]
    assert texts(980) == []
    assert texts(0, left=0) == [] and texts(4, left=4) == []  # nothing is left to find


def test_without_a_stronger_attack_there_is_no_worst_case_to_blame() -> None:
    suite = {"pgd": (pgd(), first(1000)), "noise": (NOISE, first(IMAGES))}
    suite["fgsm"] = (spec("fgsm", eps=EPS), first(1100))
    assert list(symptoms.gap(planted(suite))) == []


# ---- C17


def test_what_was_dropped_is_no_loss_that_did_not_rise_and_what_never_moved_is() -> None:
    """Half of the images are as they were: dropped, or given back by an attack that is inert."""
    half = np.arange(IMAGES) % 2 == 0

    def texts(unchanged: Any) -> list[str]:
        found = planted({"pgd": (pgd("averaged"), first(1000))}, random=True)
        found.clean["clean/loss"] = np.ones(IMAGES)
        found.attacks[0].arrays.update(
            asked=np.full(IMAGES, True),
            unchanged=unchanged,
            linf=np.where(half, 0, EPS),
            loss=np.where(half, 1.0, 2.0),
        )
        return list(symptoms.loss(found))

    assert texts(np.full(IMAGES, False)) == []
    assert texts(half) == ["pgd raises the loss on 50 % of images only"]


# ---- C20


@pytest.mark.parametrize(("surrogate", "random"), [("self", False), ("averaged", True)])
def test_cooled_logits_that_find_more_are_a_flag_and_heated_ones_a_note(surrogate, random) -> None:
    def found(cooled: int, heated: int, draws: int = IMAGES) -> tuple[list[str], list[str]]:
        suite = {"own": (pgd(surrogate), first(1000)), "draws": (pgd("self"), first(draws))}
        suite |= {"cooled": (pgd("cooled"), first(cooled)), "hot": (pgd("heated"), first(heated))}
        seen = planted(suite, random=random)
        return list(symptoms.scaling(seen)), notes(seen)

    assert found(1000, 1000) == ([], [])
    (text,), said = found(900, 1000)
    assert text.startswith("cooled find 5.0 points more") and said == []
    none, (text,) = found(1000, 900)
    assert none == [] and text.startswith("hot find 5.0 points more") and "overstates" in text
    if random:  # climbs that stop where the mean is fooled leave members that are right
        surrogate = "averaged"
        stops = planted({"own": (pgd(any_iterate=True), first(1000)),
                         "cooled": (pgd("cooled"), first(900))}, random=True)  # fmt: skip
        assert list(symptoms.scaling(stops)) == []
        goes_on = spec("members_pgd", "answers", eps=EPS, goal="mean_ce")
        stops.attacks.append(replace(stops.attacks[0], name="all", spec=goes_on))
        (text,) = symptoms.scaling(stops)
        assert text.startswith("cooled find 5.0 points more")
    # draws of a random victim are not the mean that is scaled
    assert (found(900, 1000, draws=900)[0] == []) is not random


# ---- C22


@pytest.mark.parametrize(("right", "fires"), [(1760, True), (1800, False)])
def test_slopes_that_differences_do_not_confirm(right: int, fires: bool) -> None:
    found = planted({"pgd": (pgd(), first(1000))})
    found.slope_ratios = np.where(np.arange(IMAGES) < right, 1.9, 2.1).astype(np.float32)
    assert bool(list(symptoms.differences(found))) is fires
    found.slope_ratios[1000:] = np.nan
    assert list(symptoms.differences(found)) == []  # saturated ones count for nothing
    found.slope_ratios[:1000] = 0.4
    (text,) = symptoms.differences(found)
    assert "on 0 % of 1000 images" in text and "(1000 saturated ones left out)" in text


@pytest.mark.parametrize(("version", "fires"), [("standard", True), ("rand", False)])
def test_autoattack_holds_square_and_so_hides_nothing_that_square_finds(version, fires) -> None:
    whole = spec("autoattack", **{**WHOLE["fields"], "version": version})
    square = spec("square", norm="linf", eps=EPS)
    suites: list[Suite] = [{"pgd": (pgd(), first(1500))}, {"square": (square, first(900))}]
    assert judge(planted(*suites), "C7") != []
    assert (judge(planted(*suites, {"aa": (whole, first(900))}), "C7") != []) is fires


def test_c7_and_c22_unrank_alone_and_c13_where_margins_find_more_than_the_core() -> None:
    def doubts(check: str, **others: int) -> list[str]:
        core: Suite = {"core": (pgd(), first(1000))}
        seen = planted({k: (pgd(loss="margin"), first(n)) for k, n in others.items()}, core)
        seen.core = seen.attacks[-1:]
        return untrusted(seen, [Flag(check, "")])

    assert doubts("C7", margin=1000) == ["C7"] and doubts("C10", margin=900) == []
    assert doubts("C13", margin=950) == [] and doubts("C13", margin=920) == ["C13"]
    assert doubts("C22", margin=1000) == ["C22"]


def test_without_the_core_c13_unranks_where_only_climbs_of_cross_entropy_met_the_victim() -> None:
    """The planted fake led results/unseen.csv by 18 points: PGD in l2 and l1 saw nothing of it."""
    fog = spec("fog", eps=EPS)

    def doubts(**attacks: dict[str, Any]) -> list[str]:
        seen = planted({name: (about, first(1000)) for name, about in attacks.items()})
        assert untrusted(seen, []) == []
        return untrusted(seen, [Flag("C13", "")])

    assert doubts(l2=pgd(norm="l2"), fog=fog) == ["C13"] and doubts(fog=fog) == []
    assert doubts(l2=pgd(norm="l2"), margin=pgd(loss="margin")) == ["C13"]  # of another ball
    assert doubts(ce=pgd(), margin=pgd(loss="margin")) == []
    whole = {**WHOLE, "fields": {**WHOLE["fields"], "norm": "l2"}}  # has DLR, FAB and Square too
    assert doubts(l2=pgd(norm="l2"), whole=whole) == []


@pytest.mark.parametrize("other", [{"eps": 2 * EPS}, {"norm": "l2"}])
def test_attacks_in_another_ball_are_no_evidence_about_the_cores(other) -> None:
    core: Suite = {"core": (pgd(), first(1000))}
    seen = planted({"far": (pgd(loss="margin", **other), first(100))}, core)
    seen.core = seen.attacks[-1:]
    assert untrusted(seen, [Flag("C13", "")]) == []


def test_attacks_are_compared_in_one_ball_only() -> None:
    """The same radius is far longer in l_inf than in l2."""
    l2 = pgd(norm="l2")
    whole = {**WHOLE, "fields": {**WHOLE["fields"], "norm": "l2"}}
    fgsm = spec("fgsm", eps=EPS)
    found = planted(
        {"l2": (l2, first(1990)), "noise": (NOISE, first(1970)), "whole": (whole, first(1990))},
        {"fgsm": (fgsm, first(900)), "pgd": (pgd(loss="margin"), first(900))},
    )
    for check in ("C2", "C3", "C8"):
        assert judge(found, check) == [], check
    # noise finds more than l2 PGD, and l2 PGD more than that in l_inf: each of its own ball
    blind = {"l2": (l2, first(1990)), "noise": (NOISE, first(1900))}
    assert judge(planted(blind), "C7") == []
    assert judge(planted({"ce": (pgd(), first(1500)), "l2": (l2, first(900))}), "C10") == []

    sweep = {str(eps): (pgd(norm="l2", eps=eps), first(1500)) for eps in (64 / 255, 1.0)}
    assert judge(planted(sweep), "C6") == []


def test_what_stands_behind_the_adapter_is_compared_too() -> None:
    few, many = theirs("PGD", steps=100), theirs("PGD", steps=500)
    found = planted({"few": (few, first(1200)), "many": (many, first(600))})
    (flag,) = judge(found, "C4")
    assert "few has not converged" in flag.text
    wide = theirs("PGD", steps=100, eps=2 * EPS, alpha=EPS)
    (flag,) = judge(planted({"few": (few, first(600)), "wide": (wide, first(900))}), "C6")
    assert "wide leaves 15.0 points more than few" in flag.text

    still = planted({"few": (few, first(1200))})
    still.attacks[0].arrays.update(asked=first(IMAGES) > 0, unchanged=first(IMAGES) > 0)
    (flag,) = judge(still, "C14")
    assert "few left 100 % of the images" in flag.text


# ---- C15


def masked(logits: Tensor, labels: Tensor) -> Tensor:
    """The rival as DVERGE's code finds it: the label's score times 0 takes part in the maximum."""
    own = torch.nn.functional.one_hot(labels, logits.shape[1])
    return ((1 - own) * logits).amax(1) - (own * logits).sum(1)


@pytest.mark.parametrize("fault", [False, True])
def test_a_margin_with_a_masked_zero_is_cross_entropy_on_log_probabilities(
    monkeypatch, fault: bool
) -> None:
    victim = MeanProb([trained(EPS), trained(0.1)]).eval().requires_grad_(False)
    if fault:
        monkeypatch.setattr("pipeline.evaluation.verdicts.margin", masked)
    found = Evaluation(victim, split(), list(range(200)))
    arrays: Arrays = {"labels": found.labels.numpy(), "ids": found.ids.numpy()}
    arrays |= {f"clean/{k}": v.numpy() for k, v in found.clean.items()}
    arrays |= {f"clean/{k}": v.numpy() for k, v in found.gradients().items()}
    about = {"suite": "suite", "weights": {}, "spec": {}, "outputs": found.outputs()}
    arrays["meta"] = np.array(json.dumps(about))
    assert ("C15" in {flag.check for flag in flags(Evidence([(arrays, [])]))}) is fault


# ---- C18


def learn(net: torch.nn.Module) -> None:
    """One forward in training mode, as an attack that switches modes makes it."""
    net.train()
    net(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    net.eval()


EFFECTS = {
    "nothing": lambda net: None,
    "a weight": lambda net: net[0].weight.data.add_(1e-6),
    "a running mean": learn,
    "a buffer that is not saved": lambda net: net.unsaved.add_(1),
    "a mode": lambda net: net[1].train(),
    "a gradient": lambda net: setattr(net[0].weight, "grad", torch.zeros_like(net[0].weight)),
    "what needs a gradient": lambda net: net[0].weight.requires_grad_(True),
    "torch's generator": lambda net: torch.rand(1),
    "numpy's generator": lambda net: np.random.rand(),
    "numpy's second normal": lambda net: np.random.randn(),
    "python's generator": lambda net: random.random(),
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_attack_that_changes_anything_is_found(monkeypatch, effect: str) -> None:
    net = copy.deepcopy(trained(EPS)).requires_grad_(False)
    net.register_buffer("unsaved", torch.zeros(1), persistent=False)
    victim = Single([net]).eval()

    def attack(model: torch.nn.Module, images: Tensor, labels: Tensor, draws: Any) -> Tensor:
        EFFECTS[effect](net)
        return images

    monkeypatch.setattr(registry, "build", lambda *_: attack)
    found, before = Evaluation(victim, split(), list(range(20))), fingerprint(victim)
    found.attack("planted", spec("planted"), 0)
    assert (fingerprint(victim) == before) is (effect == "nothing")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_draw_on_the_victims_gpu_is_found() -> None:
    victim = Single([copy.deepcopy(trained(EPS))]).cuda()
    before = fingerprint(victim)
    assert fingerprint(victim) == before
    torch.rand(1, device="cuda")
    assert fingerprint(victim) != before
