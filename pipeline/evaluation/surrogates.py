"""What an attack differentiates instead of a victim: docs/flags.md says when and why."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.core.ensemble import Combination, Gated, MeanProb, Scaled, answer, combine
from pipeline.plan.params.checks import SCALINGS


class Normalised(nn.Module):
    """A member with logits of unit spread on every image: confidence cannot hide gradients."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes], each row divided by its own (constant) standard deviation."""
        logits: Tensor = self.member(images)
        # Detached: the spread is a constant of the image, so the gradient keeps its direction.
        spread = logits.detach().std(-1, keepdim=True).clamp_min(1e-12)
        return logits / spread


class Answers(nn.Module):
    """Every member's logits and confidence: what attacks on a choice or a draw among them need."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """[B, members, classes + 1], the confidence last."""
        answers = [answer(member, images) for member in self.members]
        return torch.stack([torch.cat([z, trust[:, None]], 1) for z, trust in answers], 1)


class GateAnswers(nn.Module):
    """Every expert's logits and the logarithm of the weight that the gate gives it."""

    def __init__(self, mixture: Gated) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, images: Tensor) -> Tensor:
        """[B, members, classes + 1], the logarithm last."""
        logits_BKC = self.mixture.logits(images).transpose(0, 1)
        weights_BK = self.mixture.weights(images)
        # A gate that is certain gives 0 to the others, whose logarithm has no gradient.
        trust_BK = weights_BK.clamp_min(torch.finfo(weights_BK.dtype).tiny).log()
        return torch.cat([logits_BKC, trust_BK[..., None]], -1)


def surrogates(victim: Combination, kind: str) -> list[nn.Module]:
    """The models an attack differentiates to fool `victim`.

    self: the victim. averaged: the victim, or the mean probability of the members of a random
    one, whose gradient is then exact. mean_logit: the members' mean logits. members: each alone,
    in turn. normalised: mean logits of temperature-normalised members. answers: what each member
    says (members_pgd, gate_pgd). cooled, heated: all logits divided or multiplied by 10,
    whose decisions are the same: attacks that find more there met masked gradients.
    """
    members = list(victim.members)
    if kind in SCALINGS:
        rule = MeanProb if victim.random else type(victim)
        return [rule([Scaled(member, SCALINGS[kind]) for member in members])]

    if kind == "answers":
        return [GateAnswers(victim) if isinstance(victim, Gated) else Answers(members)]

    # The gradient of one draw would be noise; the mean over all draws is known exactly.
    if kind == "averaged" and victim.random:
        return [combine("mean_prob", members)]
    if kind in ("self", "averaged"):
        return [victim]

    if kind == "mean_logit":
        return [combine("mean_logit", members)]
    if kind == "normalised":
        return [combine("mean_logit", [Normalised(m) for m in members])]
    if kind == "members":
        return [combine("single", [m]) for m in members]
    raise ValueError(f"no surrogate {kind!r}")
