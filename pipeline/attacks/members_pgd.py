"""PGD that sees every member: exact expectations, member switching, soft gates.

Its model is the surrogate `answers`: images to [B, members, classes + 1], logits and confidence.
For random inference the sum over the members is the exact expectation (Carlini et al. 2019); for
SoE, lower and mismatch are the adaptive losses of its authors (its Section 5), the others what
their selection calls for: a plain gradient does not know that another member may be chosen.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import input_gradient
from pipeline.core.draws import Draws
from pipeline.core.losses import TINY, cross_entropy, margin
from pipeline.core.norms import project, steepest, uniform_start
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MembersPGD:
    """Ascends a goal on all members' answers, l_inf, and keeps the best iterate of all runs.

    Best is the least share of answers that are right, then the largest objective. heard: `all`
    members count alike (random inference), or the most `confident` one alone counts.
    mean_ce: mean of the members' CE. mean_prob: CE of their mean probability. worst_margin: the
    least margin, so that all members fail. chosen: CE of the most confident. lower: chosen
    - weight log g of that member. mismatch: chosen + weight max_j -log(1 - g_j (1 - p_j,y)).
    gate: CE of the members' probabilities mixed by softmax(g / weight). force: for each member j
    in turn margin_j + weight (g_j - max_i g_i), so that it is chosen and wrong.
    """

    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    goal: Literal[
        "mean_ce", "mean_prob", "worst_margin", "chosen", "lower", "mismatch", "gate", "force"
    ]
    weight: float
    heard: Literal["all", "confident"]

    def __post_init__(self) -> None:
        """Refuse a temperature of zero."""
        if self.goal == "gate" and self.weight <= 0:
            raise UserError("params.yaml: attacks: goal gate needs a weight (temperature) above 0")

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        answers = model(images)
        best = _Best(images.clone(), self._share(answers, labels))
        targets = range(answers.shape[1]) if self.goal == "force" else range(1)
        for number in range(self.restarts):
            for target in targets:
                own = draws.fork(number * len(targets) + target)
                self._climb(model, images, labels, own, target, best)
        return best.images

    def _climb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        target: int,
        best: "_Best",
    ) -> None:
        """One run: `steps` steps, every iterate and the last one judged.

        Who has no right answer left leaves: no iterate is worse, whatever is drawn at inference.
        """

        def objective(answers: Tensor, rows: Tensor) -> Tensor:
            return self._goal(answers, labels[rows], target)

        rows = best.standing()
        moved = uniform_start("linf", images[rows], self.eps, draws.select(rows))
        for _ in range(self.steps):
            if not len(rows):
                return
            answers, values, gradient = input_gradient(model, objective, moved, rows)
            best.take(rows, moved, self._share(answers, labels[rows]), values)
            stays = best.shares[rows] > 0
            rows = rows[stays]
            moved = moved[stays] + self.step_size * steepest("linf", gradient[stays])
            moved = project("linf", moved, images[rows], self.eps)
        if len(rows):
            answers = model(moved)
            best.take(rows, moved, self._share(answers, labels[rows]), objective(answers, rows))

    def _share(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Share of the answers heard that are right, [B]."""
        right_BK = (answers[..., :-1].argmax(-1) == labels[:, None]).float()
        if self.heard == "all":
            return right_BK.mean(1)
        return right_BK.gather(1, answers[..., -1].argmax(1)[:, None])[:, 0]

    def _goal(self, answers: Tensor, labels: Tensor, target: int) -> Tensor:
        """What is ascended, [B]."""
        logits_BKC, trust_BK = answers[..., :-1], answers[..., -1]
        losses_BK = torch.stack([cross_entropy(z, labels) for z in logits_BKC.unbind(1)], 1)
        if self.goal == "mean_ce":
            return losses_BK.mean(1)
        if self.goal == "mean_prob":
            return -(-losses_BK).logsumexp(1)
        if self.goal == "worst_margin":
            return torch.stack([margin(z, labels) for z in logits_BKC.unbind(1)], 1).amin(1)
        if self.goal == "gate":
            shares = (trust_BK / self.weight).log_softmax(1)
            return -(shares - losses_BK).logsumexp(1)
        if self.goal == "force":
            others = trust_BK.clone()
            others[:, target] = -torch.inf
            lead = trust_BK[:, target] - others.amax(1)
            return margin(logits_BKC[:, target], labels) + self.weight * lead
        return self._of_chosen(losses_BK, trust_BK)

    def _of_chosen(self, losses_BK: Tensor, trust_BK: Tensor) -> Tensor:
        chosen = trust_BK.argmax(1)[:, None]
        loss = losses_BK.gather(1, chosen)[:, 0]
        if self.goal == "lower":
            loss = loss - self.weight * (trust_BK.gather(1, chosen)[:, 0] + TINY).log()
        if self.goal == "mismatch":
            doubt = 1 - trust_BK * (1 - (-losses_BK).exp())
            loss = loss + self.weight * -(doubt + TINY).log().amin(1)
        return loss


class _Best:
    """The best iterate of every image so far; any perturbed one is preferred to a clean one."""

    def __init__(self, images: Tensor, shares: Tensor) -> None:
        self.images, self.shares = images, shares
        self.values = torch.full_like(shares, -torch.inf)

    def standing(self) -> Tensor:
        """Indices of the images with a right answer left."""
        return (self.shares > 0).nonzero()[:, 0]

    def take(self, rows: Tensor, moved: Tensor, shares: Tensor, values: Tensor) -> None:
        """Keep what is right less often, or as often at a larger objective."""
        own = self.shares[rows]
        better = (shares < own) | ((shares == own) & (values > self.values[rows]))
        kept = rows[better]
        self.images[kept] = moved[better]
        self.shares[kept] = shares[better]
        self.values[kept] = values[better]
