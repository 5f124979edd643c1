"""Combination rules: members to one model, attackable end to end.

Every rule maps images [B, C, H, W] to scores [B, classes] whose argmax is its prediction.
"""

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.losses import widen
from pipeline.errors import UserError

Gate: TypeAlias = Callable[[Tensor], Tensor]  # images -> how much each member counts, logits
Answer: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> logits, confidence


class Combination(nn.Module):
    """Members under one rule.

    `random` says that two calls may differ, `selects` that a rule chooses one member.
    """

    random = False
    selects = False
    name = "the victim"  # for a user's error

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def reseed(self, seed: int) -> None:
        """Start the draws of a random rule anew; the others have none."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits of every member, [members, B, classes], in at least float32."""
        return widen(torch.stack([m(images) for m in self.members]))

    def heard(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, classes] and every member's logits [members, B, classes], from one pass."""
        logits_KBC = self.logits(images)
        return self.scores(logits_KBC), logits_KBC

    def scores(self, logits_KBC: Tensor) -> Tensor:
        """The rule."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, classes]."""
        return self.heard(images)[0]


class Single(Combination):
    """One network, its raw logits."""

    def scores(self, logits_KBC: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return logits_KBC[0]


class MeanProb(Combination):
    """Log of the members' mean softmax, in the log domain.

    log sum_i exp(log p_i) - log n needs no clamp: the 1e-40 of released code is subnormal in
    float32 and has no gradient below it, which hides over-confident members from attacks.
    """

    def scores(self, logits_KBC: Tensor) -> Tensor:
        """Log-probabilities [B, classes]."""
        return mean_log_prob(logits_KBC)


class MeanLogit(Combination):
    """Mean of the members' logits (margin boosting)."""

    def scores(self, logits_KBC: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return logits_KBC.mean(0)


class Vote(Combination):
    """Majority of the members' decisions; a tie goes to the higher mean probability.

    The value is the hard count, the gradient that of the mean softmax (soft vote), so that
    gradient attacks have something to climb.
    """

    def scores(self, logits_KBC: Tensor) -> Tensor:
        """Votes [B, classes], plus half the mean softmax."""
        soft = logits_KBC.softmax(-1).mean(0)
        votes = F.one_hot(logits_KBC.argmax(-1), soft.shape[-1]).to(soft).sum(0)
        # Half a softmax stays below one vote, so it decides ties alone.
        return votes.detach() + soft / 2


def answer(member: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, classes] and confidence [B]: the member's own, or its largest softmax."""
    own: Answer | None = getattr(member, "answer", None)
    if own is not None:
        return own(images)
    logits: Tensor = member(images)
    return logits, logits.softmax(-1).amax(-1)


class MaxConf(Combination):
    """The most confident member answers alone; ties go to the lowest index (SoE)."""

    selects = True

    def answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [members, B, classes] and confidences [members, B]."""
        logits, confidences = zip(*(answer(m, images) for m in self.members), strict=True)
        return widen(torch.stack(logits)), torch.stack(confidences)

    def heard(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the chosen member, no gradient through the choice, and of every member."""
        logits_KBC, confidences_KB = self.answers(images)
        chosen = confidences_KB.detach().argmax(0)
        everyone = torch.arange(len(images), device=images.device)
        return logits_KBC[chosen, everyone], logits_KBC


def gate_of(member: nn.Module) -> Gate | None:
    """The gate that a member carries, whatever its logits are scaled by."""
    while isinstance(member, Scaled):
        member = member.member
    return getattr(member, "weigh", None)


class Gated(Combination):
    """Logits weighted by a gate's softmax on the image; the first member carries the gate (MoRE).

    `member.weigh(images)` gives the gate's logits, [B, members].
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__(members)
        if gate_of(self.members[0]) is None:
            raise UserError("params.yaml: combine: gated: these members have no gate; use another")

    def weights(self, images: Tensor) -> Tensor:
        """How much each member counts, [B, members], summing to 1."""
        gate = gate_of(self.members[0])
        assert gate is not None
        logits = gate(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)

    def heard(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted logits [B, classes], differentiable through the gate, and every member's."""
        logits_KBC = self.logits(images)
        weights_KB = self.weights(images).T
        return (weights_KB[..., None] * logits_KBC).sum(0), logits_KBC


class RandomOne(Combination):
    """A member drawn uniformly for every call (RED); the whole batch sees the same one."""

    random = True

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__(members)
        self._generator = torch.Generator().manual_seed(0)

    def reseed(self, seed: int) -> None:
        """Start the draws anew."""
        self._generator.manual_seed(seed)

    def scores(self, logits_KBC: Tensor) -> Tensor:
        """Mean logits: what all members say together, without a draw."""
        return logits_KBC.mean(0)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of one member."""
        logits: Tensor = self.members[int(self._draw(()))](images)
        return logits

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a member is drawn at every call")
        return torch.randint(len(self.members), shape, generator=self._generator)


class RandomEach(RandomOne):
    """A member drawn uniformly for every image of every call; each runs on its own images."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes], row by row of one member."""
        drawn = self._draw((len(images),)).to(images.device)
        groups = [(drawn == i).nonzero()[:, 0] for i in range(len(self.members))]
        parts = [m(images[g]) for m, g in zip(self.members, groups, strict=True) if len(g)]
        # Back into the batch's order.
        return torch.cat(parts)[torch.cat(groups).argsort()]


class Scaled(nn.Module):
    """A member whose logits are multiplied: same decisions, other confidence."""

    def __init__(self, member: nn.Module, factor: float) -> None:
        super().__init__()
        self.member, self.factor = member, factor

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] times the factor."""
        logits: Tensor = self.member(images) * self.factor
        return logits

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled logits; the member's confidence, so that the same member is chosen."""
        logits, confidence = answer(self.member, images)
        return logits * self.factor, confidence


RULES: dict[str, type[Combination]] = {
    "single": Single,
    "mean_prob": MeanProb,
    "mean_logit": MeanLogit,
    "vote": Vote,
    "max_conf": MaxConf,
    "gated": Gated,
    "random_one": RandomOne,
    "random_each": RandomEach,
}


def combine(rule: str, members: Iterable[nn.Module]) -> Combination:
    """Members under a named rule; one member is always `single`."""
    members = list(members)
    return RULES[rule if len(members) > 1 else "single"](members)


def check_finite(scores: Tensor, images: Tensor, who: str) -> None:
    """Raise UserError where scores [..., B, classes] are no numbers: argmax takes NaN for a class.

    Images [B, C, H, W] that are no numbers themselves are their attack's fault (check C1).
    """
    rows = scores.shape[:-2].numel()  # of no image, a shape that -1 cannot find
    lost = (~scores.isfinite().all(-1)).reshape(rows, len(images)).any(0)
    lost &= images.flatten(1).isfinite().all(1)
    if lost.any():
        share = f"{int(lost.sum())} of {len(images)} images"
        raise UserError(
            f"{who}: its scores on {share} are no finite numbers, so it decides nothing there; "
            "correct mean and std, or train it again with a lower lr"
        )


def mean_log_prob(logits_KBC: Tensor) -> Tensor:
    """log((1/n) sum_i softmax(z_i)), [B, classes]."""
    return logits_KBC.log_softmax(-1).logsumexp(0) - math.log(len(logits_KBC))
