"""MoRE, Mixture of Robust Experts (Cheng et al. 2021), as SoE trains it beside itself.

The answer is sum_i w_i(x) z_i(x) with w = softmax of a gate, a network of the members' arch with an
output for each of them. Members and gate learn together down CE(x) + CE(x'), where x' is crafted on
the whole mixture, the gate included, so that the recipe's attack is its own adaptive one.

The first member carries the gate, which therefore learns at the members' rate, as SoE's code has
it. Departure: that code never shuffles the training images (soe.py). The
authors' MoRE is another experiment: experts trained alone for several threats, their trunks frozen,
and examples that are crafted, in their code, on a network that is never trained.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.contracts.maker import Maker
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.layers import Net
from pipeline.core.losses import cross_entropy


class _Gatekeeper(nn.Module):
    """An expert that also says how much each expert counts."""

    def __init__(self, net: Net, gate: Net, members: int) -> None:
        super().__init__()
        self.net, self.gate = net, gate
        # One output for each expert takes the place of one for each class.
        self.gate.head = nn.Linear(gate.width, members)

    def forward(self, images: Tensor) -> Tensor:
        """The expert's own logits [B, classes]."""
        return cast(Tensor, self.net(images))

    def weigh(self, images: Tensor) -> Tensor:
        """Logits of the experts' weights, [B, members]."""
        return cast(Tensor, self.gate(images))


@dataclass(frozen=True, kw_only=True)
class More(Method):
    """Experts and their gate under one loss. weight_clean: of the clean images' cross-entropy."""

    weight_clean: float

    def build(self, make: Maker, members: int) -> list[nn.Module]:
        """The experts; the first of several has the gate."""
        if members == 1:
            return super().build(make, members)
        first = make.adapted(0, lambda net: _Gatekeeper(net, make.arch(), members))
        return [first, *(make(i) for i in range(1, members))]

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One step of experts and gate together."""
        crafted = training.craft(batch)
        losses = cross_entropy(training.ensemble(crafted), batch.labels)
        if self.weight_clean:
            clean = training.ensemble(batch.images)
            losses = losses + self.weight_clean * cross_entropy(clean, batch.labels)
        return training.update_members(torch.mean(losses))
