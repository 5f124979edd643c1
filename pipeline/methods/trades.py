"""TRADES (Zhang et al., ICML 2019): clean accuracy plus smoothness around every image.

Departures: one clean forward serves both terms (same loss and gradient; the authors' code runs two,
so that two thirds of the running statistics are clean). The attack asks for the clean answer once,
where they ask anew at every step: the same examples, whatever the mode. The running statistics
differ where crafting moves them, as it does in AUTE's port of TRADES (recipes `aute*`): there clean
and adversarial forwards alternate, here one clean forward comes before all the steps.
"""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.methods._objectives import trades


@dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """CE on clean images plus beta times KL from clean to adversarial predictions.

    Its entry's attack climbs the same KL from a small Gaussian start.
    """

    beta: float

    def loss(self, training: Training, index: int, batch: Batch, adversarial: Tensor) -> Tensor:
        """CE(f(x), y) + beta KL(p(x) || p(x')), gradient through both arguments, [B]."""
        return trades(training.members[index], batch, adversarial, self.beta)
