"""PGD that sees every member: exact expectations, member switching, soft gates.

Its model is the surrogate `answers`: images to [B, members, classes + 1], logits and confidence.
For random inference the sum over the members is the exact expectation (Carlini et al. 2019); for
SoE, lower and mismatch are the adaptive losses of its authors (its Section 5), the others what
their selection calls for: a plain gradient does not know that another member may be chosen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.attacks._members import Best, share_right
from pipeline.contracts.fields import Radius
from pipeline.core.ascent import input_gradient, rank_rivals, unit_mean
from pipeline.core.draws import Draws
from pipeline.core.losses import TINY, cross_entropy, gap, margin
from pipeline.core.norms import project, steepest, uniform_start
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MembersPGD:
    """Ascends a goal on all members' answers, l_inf, and keeps the best iterate of all runs.

    Best is the least share of answers that are right, then the largest objective. heard: `all`
    members count alike (random inference), or the most `confident` one alone counts.
    mean_ce: mean of the members' CE. mean_prob: CE of their mean probability. worst_margin: the
    least margin, so that all members fail. hinge: sum of margins, each cut at weight, so that who
    is fooled is not fooled further. chosen: CE of the most confident. lower: chosen
    - weight log g of that member. mismatch: chosen + weight max_j -log(1 - g_j (1 - p_j,y)).
    gate, gate_margin: CE and margin of the members' probabilities mixed by softmax(g / weight).
    force: for each member j in turn min(margin_j, weight (g_j - max_i g_i)): it must be chosen
    and wrong, and a sum would trade one for the other; with `targets` its margin is towards each
    of the classes that the members together find likeliest, in turn.
    The step falls from step_size to 0 as half a cosine where `schedule` says so, and follows
    gradients of unit mean, added up with `decay` (Dong et al. 2018, Eq. 6).
    """

    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    goal: Literal[
        "mean_ce",
        "mean_prob",
        "worst_margin",
        "hinge",
        "chosen",
        "lower",
        "mismatch",
        "gate",
        "gate_margin",
        "force",
    ]
    weight: float
    heard: Literal["all", "confident"]
    decay: float
    schedule: Literal["constant", "cosine"]  # of the step's length; cosine: it falls to 0
    targets: int

    def __post_init__(self) -> None:
        """Refuse a temperature of zero, and targets of a goal that has none."""
        if self.goal in ("gate", "gate_margin") and self.weight <= 0:
            raise UserError("params.yaml: attacks: goal gate needs a weight (temperature) above 0")
        if self.targets and self.goal != "force":
            raise UserError("params.yaml: attacks: targets are for goal force: set targets: 0")

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        answers = model(images)
        best = Best(images.clone(), share_right(answers, labels, self.heard))
        goals = self._goals(answers, labels)
        for number in range(self.restarts):
            for place, goal in enumerate(goals):
                own = draws.fork(number * len(goals) + place)
                self._climb(model, images, labels, own, goal, best)
        return best.images

    def _goals(self, answers: Tensor, labels: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """What the runs of one restart ascend: functions of answers and rows."""
        if self.goal != "force":
            return [lambda found, rows: self._goal(found, labels[rows])]

        rivals: list[Tensor | None] = [None]
        if self.targets:
            mean = answers[..., :-1].log_softmax(-1).mean(1)
            rivals = [*rank_rivals(mean, labels, self.targets).unbind(1)]

        def forced(member: int, rival: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda found, rows: self._force(
                found, member, labels[rows], None if rival is None else rival[rows]
            )

        # A run for each member, and for each rival class where there are targets.
        return [forced(member, rival) for rival in rivals for member in range(answers.shape[1])]

    def _climb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        goal: Callable[[Tensor, Tensor], Tensor],
        best: Best,
    ) -> None:
        """One run: `steps` steps, every iterate and the last one judged.

        An image without a right answer leaves: no iterate is worse, whatever is drawn at inference.
        """
        rows = best.standing()
        moved = uniform_start("linf", images[rows], self.eps, draws.select(rows))
        momentum = torch.zeros_like(moved)

        for step in range(self.steps):
            if not len(rows):
                return
            answers, values, gradient = input_gradient(model, goal, moved, rows)
            best.take(rows, moved, share_right(answers, labels[rows], self.heard), values)

            stays = best.shares[rows] > 0
            rows, moved = rows[stays], moved[stays]
            momentum = self.decay * momentum[stays] + unit_mean(gradient[stays])

            moved = moved + self._step_size(step) * steepest("linf", momentum)
            moved = project("linf", moved, images[rows], self.eps)
        if len(rows):
            # The last iterate has not been judged yet.
            answers = model(moved)
            right = share_right(answers, labels[rows], self.heard)
            best.take(rows, moved, right, goal(answers, rows))

    def _step_size(self, step: int) -> float:
        if self.schedule == "constant":
            return self.step_size
        return self.step_size * (1 + math.cos(math.pi * step / self.steps)) / 2

    def _goal(self, answers: Tensor, labels: Tensor) -> Tensor:
        """What is ascended, [B]."""
        logits_BKC, trust_BK = answers[..., :-1], answers[..., -1]
        if self.goal in ("worst_margin", "hinge"):
            margins_BK = torch.stack([margin(z, labels) for z in logits_BKC.unbind(1)], 1)
            if self.goal == "hinge":
                return margins_BK.clamp_max(self.weight).sum(1)
            return margins_BK.amin(1)

        # The logarithm of the gated mean of probabilities; a margin of logarithms is as good.
        if self.goal == "gate_margin":
            shares_BK = (trust_BK / self.weight).log_softmax(1)
            return margin((shares_BK[..., None] + logits_BKC.log_softmax(-1)).logsumexp(1), labels)

        losses_BK = torch.stack([cross_entropy(z, labels) for z in logits_BKC.unbind(1)], 1)
        if self.goal == "mean_ce":
            return losses_BK.mean(1)
        if self.goal == "mean_prob":
            # exp(-CE) is p_y: the CE of the mean probability up to the constant log K
            return -(-losses_BK).logsumexp(1)
        if self.goal == "gate":
            # The same with the gate's weights in place of 1 / K
            return -((trust_BK / self.weight).log_softmax(1) - losses_BK).logsumexp(1)
        return self._of_chosen(losses_BK, trust_BK)

    def _force(self, answers: Tensor, member: int, labels: Tensor, rival: Tensor | None) -> Tensor:
        """The lesser of a member's margin and its lead in confidence, [B]."""
        logits, trust_BK = answers[:, member, :-1], answers[..., -1]
        ahead = margin(logits, labels) if rival is None else gap(logits, labels, rival)

        others = trust_BK.clone()
        others[:, member] = -torch.inf
        lead = trust_BK[:, member] - others.amax(1)
        # A member without others is always chosen.
        return ahead if answers.shape[1] == 1 else torch.minimum(ahead, self.weight * lead)

    def _of_chosen(self, losses_BK: Tensor, trust_BK: Tensor) -> Tensor:
        chosen = trust_BK.argmax(1)[:, None]
        loss = losses_BK.gather(1, chosen)[:, 0]
        if self.goal == "lower":
            loss = loss - self.weight * (trust_BK.gather(1, chosen)[:, 0] + TINY).log()
        if self.goal == "mismatch":
            doubt = 1 - trust_BK * (1 - (-losses_BK).exp())
            loss = loss + self.weight * -(doubt + TINY).log().amin(1)
        return loss
