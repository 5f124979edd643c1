"""Steps of methods whose members train alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.lean.job import (
    Forward,
    Job,
    begin,
    climb,
    clip,
    crafting,
    gaussian,
    kl,
    mean_prob,
    rival,
    true,
    update,
)


def standard(job: Job) -> None:
    update(job.optimisers, F.cross_entropy(job.members[0](job.images), job.labels))


def pgd_at(job: Job) -> None:
    (net,) = job.members
    moved = job.craft(net, job.members)
    update(job.optimisers, F.cross_entropy(net(moved), job.labels))


def trades(job: Job) -> None:
    (net,) = job.members
    moved = job.craft(net, job.members)
    update(job.optimisers, _trades(net, job, moved))


def _trades(net: nn.Module, job: Job, moved: Tensor) -> Tensor:
    clean = net(job.images)
    return F.cross_entropy(clean, job.labels) + job.values.beta * kl(clean, net(moved)).mean()


def mart(job: Job) -> None:
    (net,), y = job.members, job.labels
    moved = job.craft(net, job.members)
    clean, attacked = net(job.images), net(moved)
    wrong = rival(attacked.softmax(1), y)
    boosted = F.cross_entropy(attacked, y) - (1.0001 - wrong + 1e-12).log().mean()
    doubt = 1.0000001 - true(clean, y)
    update(job.optimisers, boosted + job.values.beta * (kl(clean, attacked) * doubt).mean())


def arow(job: Job) -> None:
    (net,), y, v = job.members, job.labels, job.values
    moved = job.craft(net, job.members)
    clean, attacked = net(job.images), net(moved)
    smooth = F.cross_entropy(clean, y, label_smoothing=v.smoothing)
    weighted = kl(clean, attacked) * (1 - true(attacked, y))
    update(job.optimisers, smooth + v.weight_regulariser * weighted.mean())


def hat(job: Job) -> None:
    (net,), v = job.members, job.values
    moved = job.craft(net, job.members)
    loss = _trades(net, job, moved)
    with torch.no_grad():
        y = job.parents["helper"][0](moved).argmax(1)
    beyond = job.images + v.h * (moved - job.images)
    update(job.optimisers, loss + v.gamma * F.cross_entropy(net(beyond), y))


def stat(job: Job) -> None:
    (net,), x, y, v = job.members, job.images, job.labels, job.values
    rows = torch.arange(len(y))

    def spread(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sure = torch.stack([true(z.detach(), y) for z in logits])
        low, high = sure.argmin(0), sure.argmax(0)
        up, down = logits[low, rows], logits[high, rows]
        return (kl(down.detach(), up) + kl(up.detach(), down)) / 2, low, high

    bad, good = begin(x, v.eps, "gaussian"), begin(x, v.eps, "gaussian")
    with crafting([net], job.mode):
        for _ in range(v.steps):
            points = torch.stack([x, good, bad]).requires_grad_()
            gap, low, high = spread(torch.stack([net(p) for p in points]))
            (gradient,) = torch.autograd.grad(gap.sum(), points)
            moved = points.detach() + v.step_size * gradient.sign()
            bad, good = clip(moved[low, rows], x, v.eps), clip(moved[high, rows], x, v.eps)

    clean, attacked = net(x), net(bad)
    with crafting([net], "train_frozen"):
        helped = net(good)
    gap, _, _ = spread(torch.stack([clean, helped, attacked]))
    update(job.optimisers, F.cross_entropy(clean, y) + v.beta * gap.mean())


def awp(job: Job) -> None:
    (net,), y = job.members, job.labels
    moved = job.craft(net, job.members)
    kernels = [w for name, w in net.named_parameters() if "weight" in name and w.ndim > 1]
    with crafting([net], "train_frozen"):
        gradients = torch.autograd.grad(F.cross_entropy(net(moved), y), kernels)

    with torch.no_grad():
        pairs = zip(kernels, gradients, strict=True)
        shifts = [job.values.gamma * w.norm() * g / (g.norm() + 1e-20) for w, g in pairs]
        for w, shift in zip(kernels, shifts, strict=True):
            w += shift
    update(job.optimisers, F.cross_entropy(net(moved), y))
    with torch.no_grad():
        for w, shift in zip(kernels, shifts, strict=True):
            w -= shift


def gairat(job: Job) -> None:
    (net,), x, y, v = job.members, job.images, job.labels, job.values
    right = torch.zeros(len(y))
    with crafting([net], job.mode):
        moved = begin(x, v.eps, "uniform")
        for _ in range(v.steps):
            moved.requires_grad_()
            z = net(moved)
            (gradient,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), moved)
            right += z.argmax(1) == y
            moved = clip(moved.detach() + v.step_size * gradient.sign(), x, v.eps)

    weights = (1 + torch.tanh(v.lambda_ + 5 * (1 - 2 * right / v.steps))) / 2
    weights = weights / weights.mean()
    update(job.optimisers, (weights * F.cross_entropy(net(moved), y, reduction="none")).mean())


def fat(job: Job) -> None:
    (net,), x, y, v = job.members, job.images, job.labels, job.values
    left, goes = torch.full_like(y, v.tau[-1]), torch.ones_like(y, dtype=torch.bool)
    with crafting([net], job.mode):
        moved = begin(x, v.eps, v.start)
        for _ in range(v.steps):
            moved.requires_grad_()
            z = net(moved)
            (gradient,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), moved)
            wrong = z.argmax(1) != y
            goes = goes & ~(wrong & (left == 0))
            left = left - (wrong & goes).long()
            step = v.step_size * gradient.sign() + v.noise * gaussian(x)
            there = clip(moved.detach() + step, x, v.eps)
            moved = torch.where(goes[:, None, None, None], there, moved.detach())
    update(job.optimisers, F.cross_entropy(net(moved), y))


def ccg(job: Job) -> None:
    (net,), y, v = job.members, job.labels, job.values
    both = [job.craft(net, job.members) for _ in range(2)]
    one, two = net(torch.cat(both)).chunk(2)
    log_p, log_q = (one / v.temperature).log_softmax(1), (two / v.temperature).log_softmax(1)
    mean = ((log_p.exp() + log_q.exp()) / 2).log()
    apart = [F.kl_div(mean, p, log_target=True, reduction="batchmean") for p in (log_p, log_q)]
    learnt = (F.cross_entropy(one, y) + F.cross_entropy(two, y)) / 2
    update(job.optimisers, learnt + v.weight_consistency * sum(apart) / 2)


@torch.no_grad()
def _ask(job: Job, x: Tensor, name: str = "teacher") -> Tensor:
    return torch.stack([net(x) for net in job.parents[name]]).mean(0)


def ard(job: Job) -> None:
    (net,), v = job.members, job.values
    moved = job.craft(net, job.members)
    taught, attacked = _ask(job, job.images), net(moved)
    distance = kl(taught / v.temperature, attacked / v.temperature).mean()
    update(job.optimisers, v.temperature**2 * distance / attacked.shape[1])


def iad(job: Job) -> None:
    (net,), v = job.members, job.values
    moved = job.craft(net, job.members)
    attacked = net(moved)
    distance = kl(_ask(job, job.images), attacked)
    trust = true(_ask(job, moved), job.labels) ** v.beta
    itself = kl(net(job.images), attacked)
    update(job.optimisers, (trust * distance + (1 - trust) * itself).mean())


def rslad(job: Job) -> None:
    (net,), x, v = job.members, job.images, job.values
    taught = _ask(job, x)
    with crafting([net], job.mode):
        start = begin(x, v.eps, "gaussian")
        moved = climb(lambda m: kl(taught, net(m)).sum(), start, x, v.eps, v.step_size, v.steps)
    far, near = kl(taught, net(moved)).mean(), kl(taught, net(x)).mean()
    update(job.optimisers, v.scale * ((1 - v.weight_clean) * far + v.weight_clean * near))


def mce(job: Job) -> None:
    nets = [*job.parents["earlier"], *job.members]
    _learn_after(job, lambda x: torch.stack([net(x) for net in nets]).mean(0))


def barre(job: Job) -> None:
    _learn_after(job, mean_prob([*job.parents["earlier"], *job.members]))


def _learn_after(job: Job, together: Forward) -> None:
    """The last learner's step on examples against all so far."""
    (net,), x, y, v = job.members, job.images, job.labels, job.values

    def margin(z: Tensor) -> Tensor:
        against = -(-z).log_softmax(1)
        wrong = against.sum(1) - against[torch.arange(len(y)), y]
        return F.cross_entropy(z, y, reduction="none") + v.weight * wrong / (z.shape[1] - 1)

    with crafting([net], job.mode):
        start = begin(x, v.eps / 2, "uniform")
        moved = climb(
            lambda moved: margin(together(moved)).sum(), start, x, v.eps, v.step_size, v.steps
        )
    update(job.optimisers, margin(net(moved)).mean())
