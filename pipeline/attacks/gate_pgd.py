"""PGD that leads a gate to one expert and makes that expert fail, each expert in turn (MoRE).

A mixture's plain gradient follows the experts that the gate already hears; where one of them is
easily fooled but not heard, nothing leads there. Its model is the surrogate `answers` of a gated
victim: images to [B, members, classes + 1], logits and the logarithm of the gate's weight.
"""

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, keep_worst, restrict
from pipeline.core.draws import Draws
from pipeline.core.losses import margin
from pipeline.core.norms import uniform_start


@dataclass(frozen=True, kw_only=True)
class GatePGD:
    """For expert j ascends margin(z_j) + weight log w_j, l_inf; a sample keeps its worst run.

    w is the gate's softmax; runs are judged by the mixture itself, whose last iterates they are.
    """

    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    weight: float

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        with torch.no_grad():
            experts = model(images[:1]).shape[1]
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=False,
        )

        def run(number: int, rows: Tensor) -> Tensor:
            expert, clean = number % experts, images[rows]
            start = uniform_start("linf", clean, self.eps, draws.fork(number).select(rows))

            def answer(moved: Tensor) -> Tensor:
                return cast(Tensor, model(moved))[:, expert]

            def objective(answers: Tensor, own: Tensor) -> Tensor:
                # log w is at most 0, where the gate hears this expert alone.
                return margin(answers[:, :-1], labels[own]) + self.weight * answers[:, -1]

            return ascent.climb(answer, restrict(objective, rows), clean, labels[rows], start)

        runs = [partial(run, number) for number in range(self.restarts * experts)]
        return keep_worst(runs, _Mixture(model), images, labels, votes=1)


class _Mixture(nn.Module):
    """The experts' logits weighted by the gate."""

    def __init__(self, answers: nn.Module) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        answers_BKC: Tensor = self.answers(images)
        return (answers_BKC[..., :-1] * answers_BKC[..., -1:].exp()).sum(1)
