"""AT-AKA (Hamidi and Ye 2024): a student matches online teachers, each on its own particle.

In a batch: one SVGD particle for each teacher (Eq. 2), each teacher learns its own by CE, the
student learns (1 - alpha) CE(x) + alpha |z_S(x) - z_T|^2, where z_T amalgamates the teachers'
logits on their particles by rule N, L, S, or P, with the losses as weights, none of which carries
gradient; under P the student matches the teachers by KL. The student answers alone.

No code is public. Departures, each a field: with the printed kernel width 0.001 and steps along the
raw gradient the particles neither repel nor move (`at_aka_literal` keeps that, and Eq. 2's 1/n
on the second sum alone, where SVGD has it on both), so the width
follows the median of the distances, both sums of Eq. 2 get unit length, steps are signed, and
teacher j's gradient is taken at its own particle, which costs a third. Neither repulsion nor alpha
is given: 1 and 0.5. As printed the student sees clean images only: `student_input: clean`; what
robustness it has then comes from its targets alone, and `own` and `mean_particle` are the sane
variants. P's KL(p_S || p_T) is printed with the student first (`at_aka_pareto_printed`), where
distillation has the teacher first, which is the default. Teachers' logits are those from before
their step.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Arch
from pipeline.contracts.maker import Maker
from pipeline.contracts.training import Batch, Training
from pipeline.core.losses import cross_entropy
from pipeline.methods._amalgamation import Amalgamating


@dataclass(frozen=True, kw_only=True)
class AtAka(Amalgamating):
    """Students taught in the run that trains their teachers.

    student_input: clean images, its own particle (one, so no repulsion), or the teachers' mean.
    """

    teachers: int
    teacher_arch: Arch
    student_input: Literal["clean", "own", "mean_particle"]

    def assist(self, make: Maker) -> list[nn.Module]:
        """The teachers."""
        return [make.assistant("teacher_arch", i) for i in range(self.teachers)]

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One step of every teacher, then one of every student."""
        particles_KBCHW = self.craft(training, training.assistants, batch)

        taught = []
        for i, (teacher, images) in enumerate(
            zip(training.assistants, particles_KBCHW, strict=True)
        ):
            logits = teacher(images)
            # The students see the answer from before the teacher's step.
            taught.append(logits.detach())
            # The teachers' optimisers come after the members'.
            training.update(len(training.members) + i, cross_entropy(logits, batch.labels))

        losses = []
        for index, student in enumerate(training.members):
            logits = student(self._input(training, student, batch, particles_KBCHW))
            own = self.mixed(logits, torch.stack(taught), batch.labels)
            losses.append(training.update(index, own))
        return torch.stack(losses).mean()

    def _input(
        self, training: Training, student: nn.Module, batch: Batch, particles_KBCHW: Tensor
    ) -> Tensor:
        if self.student_input == "own":
            return self.craft(training, [student], batch)[0]
        if self.student_input == "mean_particle":
            return particles_KBCHW.mean(0)
        return batch.images
