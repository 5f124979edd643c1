"""AutoAttack: the worst case over complementary attacks (Croce and Hein 2020)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pipeline.attacks.apgd import APGD
from pipeline.attacks.fab import FAB
from pipeline.attacks.square import Square
from pipeline.contracts.fields import Radius
from pipeline.core.ascent import Attempt, keep_worst, refuse_random
from pipeline.core.draws import Draws

Part = Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]
PARTS = {
    "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "plus": ("apgd_ce", "apgd_t", "apgd_dlr", "fab_t", "square", "fab"),
    "rand": ("apgd_ce", "apgd_dlr"),
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """Runs its parts cheapest first, each from the clean image of the samples still right.

    `restarts` are those of untargeted APGD and FAB (1; 5 in plus), targeted ones have 1 as in the
    authors' code; `eot` is the number of forwards that a step of APGD averages (1; 20 in rand).
    Only rand may attack a random model. The authors' standard one in l1 has 5 restarts, and 5
    targets of APGD where FAB has 9: `targets` are those of both.
    """

    version: Literal["standard", "plus", "rand"]
    eps: Radius
    steps: int
    targets: int
    restarts: int
    rho: float
    eot: int
    alpha_max: float
    eta: float
    beta: float
    queries: int
    p_init: float
    norm: Literal["linf", "l2", "l1"] = "linf"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        if self.version != "rand":
            refuse_random(model, f"autoattack version {self.version}")

        def attempt(name: str, part: Part) -> Attempt:
            # Forked by name: a part's draws do not depend on the parts before it.
            return lambda rows: part(
                model, images[rows], labels[rows], draws.fork(name).select(rows)
            )

        attempts: list[Attempt] = [lambda rows: images[rows]]  # clean errors need no attack
        attempts += [attempt(name, part) for name, part in self.parts().items()]
        return keep_worst(attempts, model, images, labels, votes=self.eot)

    def parts(self) -> dict[str, Part]:
        """The attacks by name, in the order in which they run."""
        parts: dict[str, Part] = {
            "apgd_ce": self._apgd("ce", 0),
            "apgd_dlr": self._apgd("dlr", 0),
            "apgd_t": self._apgd("dlr_targeted", self.targets),
            "fab": self._fab(0),
            "fab_t": self._fab(self.targets),
            "square": Square(
                eps=self.eps,
                queries=self.queries,
                restarts=1,
                p_init=self.p_init,
                norm=self.norm,
            ),
        }
        return {name: parts[name] for name in PARTS[self.version]}

    def _apgd(self, loss: Literal["ce", "dlr", "dlr_targeted"], targets: int) -> APGD:
        return APGD(
            norm=self.norm,
            eps=self.eps,
            steps=self.steps,
            restarts=1 if targets else self.restarts,
            loss=loss,
            targets=targets,
            rho=self.rho,
            eot=self.eot,
        )

    def _fab(self, targets: int) -> FAB:
        return FAB(
            eps=self.eps,
            steps=self.steps,
            restarts=1 if targets else self.restarts,
            targets=targets,
            alpha_max=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
            norm=self.norm,
        )
