"""MART (Wang et al., ICLR 2020): TRADES that cares most for what it gets wrong.

    BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x))                               (Eq. 11)

BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x')). Nothing is detached: the gradient also flows
through the weight 1 - p_y(x). Its offsets are the authors' code's where they keep a value finite
(1.0001 in BCE) or positive (1.0000001 in the weight).

Departures: crafted examples start inside the box (the authors clip after the first step).
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.methods._objectives import mart


@dataclass(frozen=True, kw_only=True)
class Mart(Method):
    """Boosted CE on adversarial images plus beta times KL, weighted by the doubt on clean ones.

    Its entry's attack climbs CE from a small Gaussian start.
    """

    beta: float

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)), [B]."""
        return mart(training.members[index], batch, adversarial, self.beta)
