"""MALT: targeted APGD, nearest classes first, as if the model were linear (Melamed et al. 2024)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attacks.apgd import APGD
from pipeline.core.ascent import Objective, gradient_in
from pipeline.core.losses import dlr_targeted
from pipeline.core.norms import Ball, lengths
from pipeline.errors import UserError

DUAL: dict[Ball, Ball] = {"linf": "l1", "l2": "l2", "l1": "linf"}  # of slopes


@dataclass(frozen=True, kw_only=True)
class MALT(APGD):
    """APGD-T whose targets have the least (z_y - z_t) / |grad (z_y - z_t)| at the clean image.

    The length is in the dual norm, as in Algorithm 1; all wrong classes are ranked, at one backward
    each, and one without a slope comes last (the authors' code takes it first).
    """

    def __post_init__(self) -> None:
        """Refuse no targets: nothing would be ranked."""
        super().__post_init__()
        if not self.targets:
            raise UserError("params.yaml: attacks: malt needs targets: 1 or more, dlr_targeted")

    def _objectives(self, model: nn.Module, images: Tensor, labels: Tensor) -> list[Objective]:
        """One for each target, nearest first."""
        ranked = self._measure_distances(model, images, labels).argsort(stable=True, dim=1)
        # The true class is last of all.
        nearest = ranked[:, : min(self.targets, ranked.shape[1] - 1)]
        return [_towards(targets, labels) for targets in nearest.unbind(1)]

    def _measure_distances(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """To every class's boundary of the model linearised, [B, classes]; inf to the own one
        alone, and the largest number to one without a slope."""
        with torch.enable_grad():
            moved = images.detach().requires_grad_()
            logits = model(moved)
            gaps = (logits.gather(1, labels[:, None]) - logits).unbind(1)

        distances = torch.zeros_like(logits.detach())
        most = torch.finfo(distances.dtype).max
        for target, values in enumerate(gaps):
            slopes = gradient_in(moved, values, keep_graph=True)
            size = lengths(DUAL[self.norm], slopes)
            distance = torch.where(size > 0, values.detach() / size, torch.inf)
            distances[:, target] = distance.clamp(max=most)
        return distances.scatter(1, labels[:, None], torch.inf)


def _towards(targets: Tensor, labels: Tensor) -> Objective:
    return lambda logits, rows: dlr_targeted(logits, labels[rows], targets[rows])
