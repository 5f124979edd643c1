"""Steps of methods whose members train together."""

import math
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.lean.job import (
    Job,
    begin,
    clip,
    crafting,
    gaussian,
    kl,
    mean_prob,
    rival,
    slope,
    true,
    uniform,
    update,
)


def aute(job: Job) -> None:
    y, v = job.labels, job.values
    moved = job.craft(mean_prob(job.members), job.members)
    for i, net in enumerate(job.members):
        z = net(moved)
        p = z.softmax(1)
        distance = true(z, y) - rival(p, y)
        weights = torch.where(distance >= v.margin, -v.gamma * distance, 1 - distance)
        loss = weights * F.cross_entropy(z, y, reduction="none")

        peers = job.members[i + 1 :] + job.members[:i]
        with torch.no_grad(), crafting(peers, job.mode):
            others = mean_prob(peers)(moved)
        loss = loss + v.beta * (1 - true(z, y)) * kl(z, others)
        update([job.optimisers[i]], loss.mean())


def adp(job: Job) -> None:
    logits = torch.stack([net(job.images) for net in job.members])
    update(job.optimisers, _adp(job, logits))


def _adp(job: Job, logits: Tensor) -> Tensor:
    """ADP's objective, of logits [members, B, classes]."""
    y, v = job.labels, job.values
    learnt = sum(F.cross_entropy(z, y) for z in logits)
    probs = logits.softmax(-1)
    mean = probs.mean(0)
    entropy = -(mean * (mean + 1e-20).log()).sum(1)

    wrong = ~F.one_hot(y, probs.shape[-1]).bool()
    rest = torch.stack([p[wrong].view(len(y), -1) for p in probs], 1).double()
    unit = F.normalize(rest, dim=2)
    gram = unit @ unit.transpose(1, 2) + 1e-6 * torch.eye(len(probs))
    return learnt - (v.alpha * entropy + v.beta * torch.logdet(gram)).mean()


def igat(job: Job) -> None:
    moved = job.craft(mean_prob(job.members), job.members)
    update(job.optimisers, _shared_out(job, job.images) + _shared_out(job, moved))


def _shared_out(job: Job, x: Tensor) -> Tensor:
    """ADP's objective, and iGAT's terms on images that the ensemble gets wrong."""
    y, v, images = job.labels, job.values, torch.arange(len(job.labels))
    logits = torch.stack([net(x) for net in job.members])
    probs = logits.softmax(-1)
    wrong = probs.mean(0).argmax(1) != y

    right = torch.stack([true(z, y) for z in logits]).detach()
    chances = 2.0 ** torch.arange(len(logits))
    bounds = (chances.cumsum(0) / chances.sum())[:-1]
    rank = (uniform(right[0])[:, None] >= bounds).sum(1)
    chosen = right.argsort(0)[rank, images]
    own = F.cross_entropy(logits[chosen, images], y, reduction="none")

    largest = torch.stack([rival(p, y) for p in probs]).amax(0)
    weak = -(1 - largest.clamp(max=0.99)).log()
    extra = v.weight_global * own + v.weight_weakness * weak
    return _adp(job, logits) + (wrong * extra).mean()


def _sloped(net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss, and the gradient of each image's own loss, [B, D], to be differentiated again."""
    x = x.detach().requires_grad_()
    losses = F.cross_entropy(net(x), y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    return losses.mean(), gradient.flatten(1)


def gal(job: Job) -> None:
    x, v = job.images, job.values
    noisy = uniform(x[:, :1, :1, :1]) < v.noisy_share
    x = x + v.noise * gaussian(x) * noisy
    losses, gradients = zip(*[_sloped(net, x, job.labels) for net in job.members], strict=True)
    cosines = [F.cosine_similarity(a, b) for a, b in combinations(gradients, 2)]
    coherence = torch.stack(cosines).logsumexp(0).mean()
    update(job.optimisers, sum(losses) / len(losses) + v.weight * coherence)


def dverge(job: Job) -> None:
    x, y, v = job.images, job.labels, job.values
    points = []
    for net in job.members:
        with crafting([net], job.mode):
            with torch.no_grad():
                wanted = net.features(x.roll(1, 0), job.depth)

            def near(moved: Tensor, net=net, wanted=wanted) -> Tensor:
                return -(net.features(moved, job.depth) - wanted).flatten(1).square().mean(1).sum()

            moved, total = x, torch.zeros_like(x)
            for _ in range(v.steps):
                gradient = slope(near, moved)
                total = total + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
                moved = clip(moved + v.step_size * total.sign(), x, v.distance)
            points.append(moved)

    for i, net in enumerate(job.members):
        others = [F.cross_entropy(net(p), y) for j, p in enumerate(points) if j != i]
        update([job.optimisers[i]], v.weight * sum(others))


def _mean_cosine(gradients: list[Tensor], least: float) -> Tensor:
    """Mean |cos| of two members' gradients."""
    pairs = combinations(gradients, 2)
    norms = [
        (a * b).sum(1).abs() / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(least) for a, b in pairs
    ]
    return torch.stack(norms).mean()


def _squared(gradients: list[Tensor]) -> Tensor:
    """Twice the mean squared length."""
    return 2 * torch.stack(gradients).square().sum(-1).mean()


def trs(job: Job) -> None:
    x, y, v, nets = job.images, job.labels, job.values, job.members
    size, half = len(y), len(y) // 2
    losses, gradients = zip(*[_sloped(net, x, y) for net in nets], strict=True)
    gradients = [g / size for g in gradients]

    eps = v.eps_start + (v.eps_end - v.eps_start) * job.progress
    clean, labels = x[half:], y[half:]
    moved, total = begin(clean, eps, "uniform"), torch.zeros_like(clean)
    with crafting(nets, job.mode):
        for _ in range(v.steps):
            moved.requires_grad_()
            norms = 0
            for net in nets:
                loss = F.cross_entropy(net(moved), labels, reduction="sum")
                norms += torch.autograd.grad(loss, moved, create_graph=True)[0].square().sum()
            total = total + torch.autograd.grad(norms, moved)[0]
            moved = clip(moved.detach() + v.stride * eps * total.sign(), clean, eps)

    mixed = torch.cat([x[:half], moved])
    steep = [_sloped(net, mixed, y)[1] / size for net in nets]
    loss = sum(losses) + v.coeff * _mean_cosine(gradients, v.least) + v.lamda * _squared(steep)
    update(job.optimisers, loss)


def red(job: Job) -> None:
    x, y, v, nets = job.images, job.labels, job.values, job.members
    size, half = len(y), len(y) // 2
    losses, gradients = zip(*[_sloped(net, x, y) for net in nets], strict=True)
    gradients = [g / size for g in gradients]

    moved = job.craft(mean_prob(nets), nets, x[half:])
    mixed = torch.cat([x[:half], moved])
    steep = [_sloped(net, mixed, y)[1] / size for net in nets]
    apart = v.weight_similarity * _mean_cosine(gradients, v.least)
    update(job.optimisers, sum(losses) + apart + v.weight_lipschitz * _squared(steep))


def more(job: Job) -> None:
    gate = job.members[0].gate

    def answer(x: Tensor) -> Tensor:
        weights = gate(x).softmax(1).T[..., None]
        return (weights * torch.stack([net(x) for net in job.members])).sum(0)

    moved = job.craft(answer, job.members)
    loss = F.cross_entropy(answer(moved), job.labels)
    clean = F.cross_entropy(answer(job.images), job.labels)
    update(job.optimisers, loss + job.values.weight_clean * clean)


def soe(job: Job) -> None:
    """Of the second phase."""
    y, v = job.labels, job.values

    def surest(x: Tensor) -> Tensor:
        logits, trust = map(torch.stack, zip(*[net.answer(x) for net in job.members], strict=True))
        return logits[trust.argmax(0), torch.arange(len(x))]

    def common(x: Tensor) -> Tensor:
        heads = [net.heads(x, through=False) for net in job.members]
        losses = torch.stack([F.cross_entropy(z, y, reduction="none") for z, _ in heads])
        targets = (-losses.detach()).exp()
        experts = -v.sigma * (-losses / v.sigma).logsumexp(0)
        trust = torch.stack([t for _, t in heads]).clamp(1e-6, 1 - 1e-6)
        return experts.mean() + v.weight_confidence * F.binary_cross_entropy(trust, targets)

    moved = job.craft(surest, job.members)
    update(job.optimisers, common(moved) + common(job.images))


def _particles(job: Job, nets: list[nn.Module]) -> list[Tensor]:
    """One for each net, which repel each other by the median kernel (SVGD)."""
    x, y, v, n = job.images, job.labels, job.values, len(nets)
    points = [begin(x, v.eps, "uniform") for _ in nets]
    with crafting(nets, job.mode):
        for _ in range(v.steps):
            pairs = zip(nets, points, strict=True)
            rises = [
                slope(lambda m, net=net: F.cross_entropy(net(m), y, reduction="sum"), p).flatten(1)
                for net, p in pairs
            ]
            flat = torch.stack(points).flatten(2)
            apart = flat[:, None] - flat[None]  # [n, n, B, D]
            squared = apart.square().sum(-1)
            above = torch.triu_indices(n, n, 1)
            width = squared[above[0], above[1]].quantile(0.5, dim=0) / (2 * math.log(n + 1))
            kernel = (-squared / (2 * width)).exp()[..., None]
            pull = (kernel * torch.stack(rises)).sum(1)
            push = (kernel * apart / width[:, None]).sum(1)
            pull, push = F.normalize(pull, dim=-1), F.normalize(push, dim=-1)
            moved = flat + v.step_size * (pull + v.repulsion * push).sign()
            points = [clip(m.view_as(x), x, v.eps) for m in moved]
    return points


def _fused(logits: Tensor, y: Tensor, sharpness: float) -> Tensor:
    """Logits [n, B, classes] weighted by the softmax of their losses."""
    losses = torch.stack([F.cross_entropy(z, y, reduction="none") for z in logits])
    return ((sharpness * losses).softmax(0)[..., None] * logits).sum(0)


def _matched(z: Tensor, target: Tensor, job: Job) -> Tensor:
    a = job.values.alpha
    near = (z - target).square().sum(1).mean()
    return (1 - a) * F.cross_entropy(z, job.labels) + a * near


def at_aka(job: Job) -> None:
    points = _particles(job, job.assistants)
    taught = []
    for i, teacher in enumerate(job.assistants):
        z = teacher(points[i])
        taught.append(z.detach())
        update([job.optimisers[len(job.members) + i]], F.cross_entropy(z, job.labels))

    (student,) = job.members
    target = _fused(torch.stack(taught), job.labels, job.values.sharpness)
    update(job.optimisers[:1], _matched(student(job.images), target, job))


def cat_aka(job: Job) -> None:
    points = _particles(job, job.members)
    logits = [net(p) for net, p in zip(job.members, points, strict=True)]
    target = _fused(torch.stack(logits).detach(), job.labels, job.values.sharpness)
    update(job.optimisers, sum(_matched(z, target, job) for z in logits))


ps_red = red
