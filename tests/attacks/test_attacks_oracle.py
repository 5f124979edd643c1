"""Agreement with torchattacks 3.5.1, from the same random starts."""

import pytest
import torch
import torchattacks
from torch import Tensor
from victims import EPS, apgd, autoattack, fab, held_out, pgd, right, square, trained

from pipeline.attacks.bim import BIM
from pipeline.attacks.fgsm import FGSM
from pipeline.attacks.mim import MIM
from pipeline.core.ascent import Ascent, on_labels
from pipeline.core.losses import cross_entropy, dlr
from pipeline.core.norms import Ball, lengths

both_nets = pytest.mark.parametrize("training_eps", [0.0, EPS])


class Replayed:
    """Draws from torch's global generator, as torchattacks does."""

    def __init__(self, count: int) -> None:
        self.count = count

    def fork(self, purpose: str | int) -> "Replayed":
        return self

    def select(self, rows: Tensor) -> "Replayed":
        return Replayed(len(rows))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape)


def clean_right(model: torch.nn.Module, count: int) -> tuple[Tensor, Tensor]:
    images, labels, _ = held_out(count)
    rows = right(model, images, labels)
    return images[rows], labels[rows]


@both_nets
def test_pgd_from_the_same_start_is_bit_equal(training_eps: float) -> None:
    model = trained(training_eps)
    images, labels, _ = held_out(64)  # a power of two: their mean and our sum differ exactly
    torch.manual_seed(0)
    start = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    torch.manual_seed(0)
    theirs = torchattacks.PGD(model, EPS, EPS / 4, 10)(images, labels)
    ascent = Ascent(norm="linf", eps=EPS, step_size=EPS / 4, steps=10, decay=0, any_iterate=False)
    ours = ascent.climb(model, on_labels(cross_entropy, labels), images, labels, start)
    assert torch.equal(ours, theirs)


@both_nets
def test_fgsm_bim_and_mim_are_bit_equal(training_eps: float) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(64)
    pairs = {
        "fgsm": (FGSM(eps=EPS), torchattacks.FGSM(model, EPS)),
        "bim": (
            BIM(eps=EPS, step_size=EPS / 4, steps=10),
            torchattacks.BIM(model, EPS, EPS / 4, 10),
        ),
        "mim": (
            MIM(eps=EPS, step_size=EPS / 5, steps=20, decay=1.0),
            torchattacks.MIFGSM(model, EPS, EPS / 5, 20, 1.0),
        ),
    }
    for name, (ours, theirs) in pairs.items():
        mine, other = ours(model, images, labels, draws), theirs(images, labels)
        if name == "bim":  # its older clipping of the box may round a pixel's last bit otherwise
            assert torch.allclose(mine, other, atol=1e-6)
        else:
            assert torch.equal(mine, other), name


@both_nets
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_from_the_same_start_leaves_the_same_robust_set(training_eps, loss) -> None:
    model = trained(training_eps)
    images, labels = clean_right(model, 400)
    theirs = torchattacks.APGD(model, eps=EPS, steps=100, loss=loss, seed=0)(images, labels)
    torch.manual_seed(0)
    ours = apgd(steps=100, loss=loss)(model, images, labels, Replayed(len(images)))
    same = right(model, ours, labels) == right(model, theirs, labels)
    assert float(same.float().mean()) >= 0.995
    assert 0.05 < float(right(model, ours, labels).float().mean()) < 0.95


def test_apgd_ends_at_the_same_best_point_after_the_same_halvings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On samples that resist, for enough steps to pass several checkpoints; on the very net."""
    monkeypatch.setattr("pipeline.attacks.apgd.folded", lambda model: model)  # rounds otherwise
    model = trained(EPS)
    images, labels = clean_right(model, 200)
    theirs = torchattacks.APGD(model, eps=EPS / 2, steps=40, loss="dlr")
    torch.manual_seed(0)
    best = theirs.attack_single_run(images, labels)[0]
    torch.manual_seed(0)
    attack = apgd(eps=EPS / 2, steps=40, loss="dlr")
    ours = attack(model, images, labels, Replayed(len(images)))
    apart = lengths("linf", ours - best)[right(model, ours, labels)]
    assert len(apart) > 100
    assert float((apart < 1e-5).float().mean()) > 0.9


def test_apgd_in_l2_ends_at_better_points() -> None:
    """Theirs shrinks to the ball and clips to the box; ours goes to the nearest point of both."""
    model = trained(EPS)
    images, labels = clean_right(model, 200)
    theirs = torchattacks.APGD(model, norm="L2", eps=0.3, steps=40, loss="dlr")
    torch.manual_seed(0)
    best = theirs.attack_single_run(images, labels)[0]
    torch.manual_seed(0)
    attack = apgd(norm="l2", eps=0.3, steps=40, loss="dlr")
    ours = attack(model, images, labels, Replayed(len(images)))
    robust = right(model, ours, labels)
    gains = (dlr(model(ours), labels) - dlr(model(best), labels))[robust].detach()
    assert int(robust.sum()) > 50
    assert float(gains.mean()) > 0


def test_crafting_for_trades_takes_the_steps_of_tpgd() -> None:
    model = trained(EPS)
    images, labels, _ = held_out(64)
    images = 0.1 + 0.8 * images  # off the box, to which TPGD does not clip its start
    torch.manual_seed(0)
    theirs = torchattacks.TPGD(model, EPS, EPS / 4, 5)(images)
    torch.manual_seed(0)
    attack = pgd(start="gaussian", loss="kl", step_size=EPS / 4, steps=5)
    ours = attack(model, images, labels, Replayed(64))
    assert float(((ours - theirs).abs() < 1e-6).float().mean()) > 0.99


@both_nets
def test_targeted_apgd_leaves_the_same_robust_set(training_eps: float) -> None:
    model = trained(training_eps)
    images, labels = clean_right(model, 120)
    theirs = torchattacks.APGDT(model, eps=EPS, steps=100, seed=0)(images, labels)
    torch.manual_seed(0)
    attack = apgd(steps=100, loss="dlr_targeted", targets=9)
    ours = attack(model, images, labels, Replayed(len(images)))
    same = right(model, ours, labels) == right(model, theirs, labels)
    assert float(same.float().mean()) >= 0.99


@both_nets
@pytest.mark.parametrize("targets", [0, 9])
def test_fab_leaves_the_same_robust_set(training_eps: float, targets: int) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(200)
    theirs = torchattacks.FAB(model, eps=EPS, steps=20, multi_targeted=targets > 0)
    other = theirs(images, labels)
    held = right(model, other, labels) | (lengths("linf", other - images) > EPS + 1e-6)
    ours = fab(steps=20, targets=targets)(model, images, labels, draws)
    assert float((right(model, ours, labels) == held).float().mean()) >= 0.99


@pytest.mark.parametrize("part", ["apgd_ce", "apgd_t", "fab_t"])
def test_parts_in_l2_leave_the_same_robust_set(part: str) -> None:
    model, eps = trained(EPS), 0.85
    images, labels, draws = held_out(100)
    theirs = {
        "apgd_ce": torchattacks.APGD(model, norm="L2", eps=eps, steps=30),
        "apgd_t": torchattacks.APGDT(model, norm="L2", eps=eps, steps=30),
        "fab_t": torchattacks.FAB(model, norm="L2", eps=eps, steps=30, multi_targeted=True),
    }[part]
    other = theirs(images, labels)
    held = right(model, other, labels) | (lengths("l2", other - images) > eps + 1e-6)
    attack = autoattack(norm="l2", eps=eps, steps=30, targets=9).parts()[part]
    ours = right(model, attack(model, images, labels, draws), labels)
    # starts are other draws, and 30 steps leave a few images of either side to luck
    assert int((ours != held).sum()) <= 6 and abs(int(ours.sum()) - int(held.sum())) <= 3
    assert 10 < int(ours.sum()) < 90


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.85), ("l1", 2.0)])
def test_square_finds_in_other_balls_what_gradients_find(norm: Ball, eps: float) -> None:
    """No gradient is asked; who it fools is fooled by the whole, and most of whom that fools."""
    model = trained(EPS)
    images, labels, draws = held_out(60)
    parts = autoattack(norm=norm, eps=eps, steps=20, targets=3, queries=300).parts()
    found = {
        name: ~right(model, parts[name](model, images, labels, draws), labels)
        for name in ("apgd_t", "square")
    }
    clean = ~right(model, images, labels)
    assert int((found["square"] & ~found["apgd_t"]).sum()) <= 1
    assert int((found["square"] & ~clean).sum()) > 0.2 * int((found["apgd_t"] & ~clean).sum())


@both_nets
def test_square_is_no_weaker(training_eps: float) -> None:
    model = trained(training_eps)
    images, labels, draws = held_out(200)
    theirs = torchattacks.Square(model, eps=EPS, n_queries=300, resc_schedule=False)
    torch.manual_seed(0)
    limit = int(right(model, theirs(images, labels), labels).sum())
    ours = square(queries=300)(model, images, labels, draws)
    assert int(right(model, ours, labels).sum()) <= limit


@pytest.mark.slow
@both_nets
def test_autoattack_leaves_the_same_robust_set_as_its_parts_rebuilt(training_eps: float) -> None:
    """torchattacks' own AutoAttack stops its parts at 10 steps: rebuilt at the reference's 100."""
    model = trained(training_eps)
    images, labels, draws = held_out(60)
    theirs = torchattacks.MultiAttack(
        [
            torchattacks.APGD(model, eps=EPS, steps=100),
            torchattacks.APGDT(model, eps=EPS, steps=100),
            torchattacks.FAB(model, eps=EPS, steps=100, multi_targeted=True),
            torchattacks.Square(model, eps=EPS, n_queries=5000, resc_schedule=False),
        ]
    )
    other = theirs(images, labels)
    attack = autoattack(steps=100, targets=9, queries=5000)
    ours = attack(model, images, labels, draws)
    assert float((ours - images).abs().max()) <= EPS + 1e-6
    same = right(model, ours, labels) == right(model, other, labels)
    assert float(same.float().mean()) >= 0.98  # one image
