"""CAT-AKA (Hamidi and Ye 2024): peers that amalgamate each other's answers, without a teacher.

Each network learns its own particle, (1 - alpha) CE + alpha |z_i - z|^2, where z amalgamates all
their logits (Eq. 9). z carries no gradient: otherwise the target is pulled to the students. Each
is reported alone; together they are an ensemble. Particles as in AT-AKA.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.contracts.training import Batch, Training
from pipeline.methods._amalgamation import Amalgamating


@dataclass(frozen=True, kw_only=True)
class CatAka(Amalgamating):
    """One step of all peers down the sum of their losses."""

    def step(self, training: Training, batch: Batch) -> Tensor:
        """Craft, answer, amalgamate, step."""
        particles_KBCHW = self.craft(training, training.members, batch)
        answers = [m(x) for m, x in zip(training.members, particles_KBCHW, strict=True)]
        logits_KBC = torch.stack(answers)
        losses = [self.mixed(z, logits_KBC, batch.labels).mean() for z in answers]
        training.update_members(torch.stack(losses).sum())
        return torch.stack(losses).detach().mean()
