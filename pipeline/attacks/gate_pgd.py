"""PGD that leads a gate to one expert and makes that expert fail, each expert in turn (MoRE).

A mixture's plain gradient follows the experts that the gate already hears; where one of them is
easily fooled but not heard, nothing leads there.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Ascent, keep_worst, restrict
from pipeline.core.draws import Draws
from pipeline.core.ensemble import Gated
from pipeline.core.losses import margin
from pipeline.core.norms import uniform_start
from pipeline.errors import UserError


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
        if not isinstance(model, Gated):
            raise UserError("params.yaml: attacks: gate_pgd needs a gate: give it only: [gated]")
        ascent = Ascent(
            norm="linf",
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            decay=0,
            any_iterate=False,
        )

        def run(number: int, rows: Tensor) -> Tensor:
            expert, clean = number % len(model.members), images[rows]
            start = uniform_start("linf", clean, self.eps, draws.fork(number).select(rows))

            def answer(moved: Tensor) -> Tensor:
                heard = model.weights(moved)[:, expert].log()
                return torch.cat([model.members[expert](moved), heard[:, None]], 1)

            def objective(answers: Tensor, own: Tensor) -> Tensor:
                return margin(answers[:, :-1], labels[own]) + self.weight * answers[:, -1]

            return ascent.climb(answer, restrict(objective, rows), clean, labels[rows], start)

        count = self.restarts * len(model.members)
        return keep_worst([partial(run, n) for n in range(count)], model, images, labels, votes=1)
