"""What RED and PS-RED share: members with unlike, small input gradients.

Eq. 13 (as printed): mean CE + weight_lipschitz R_Lip + weight_similarity R_sim, where R_Lip is the
mean length of the members' loss gradients (Eq. 12) and R_sim the mean |cos| between two members'
gradients, each averaged over clean and adversarial images (Eq. 4; the minus in front of it in the
text at hand cannot be meant, since R_sim is minimised). Eq. 3 sums ordered pairs and divides by
the number of unordered ones, so that identical members have R_sim 2: `pairs: ordered`.

The released code crafts examples for the half of the batch that uses them, in training mode with
running statistics moving (recipe `red`, entries `_own`); what meets the unified protocol is
crafted in evaluation mode, the departure of the other entries. Members' own examples (`red_at`)
are crafted in evaluation mode, each from noise of its own.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ensemble import combine
from pipeline.methods._gradients import losses_and_gradients, similarity, steepness


@dataclass(frozen=True, kw_only=True)
class RandomDefence(Method):
    """One step of all members down CE and the two regularisers.

    similarity_on, lipschitz_on: the images whose gradients count; halves is clean images and, for
    the second half of the batch, adversarial ones. gradient: of each image's loss, or of the batch
    mean, which is smaller by the batch size (so its square by that size squared). length: of the
    Lipschitz term; twice_squared is TRS's. least: lower bound of a product of norms, 1e-8 in the
    paper; the released cosine bounds each norm by 1e-8, their product by 1e-16. adversarial: CE
    and gradients at each member's own adversarial examples instead of clean images.
    """

    weight_lipschitz: float
    weight_similarity: float
    cross_entropy: Literal["mean", "sum"]
    similarity_on: Literal["clean", "both"]
    lipschitz_on: Literal["clean", "both", "halves"]
    pairs: Literal["ordered", "unordered"]
    length: Literal["norm", "twice_squared"]
    gradient: Literal["image", "batch_mean"]
    least: float
    adversarial: bool

    def step(self, training: Training, batch: Batch) -> Tensor:
        """One step of all members together."""
        losses_KB, clean_KBD = self._gradients(training, self._own(training, batch), batch)
        loss = losses_KB.mean() if self.cross_entropy == "mean" else losses_KB.sum(0).mean()

        crafted = self._crafted(training, batch)
        both = [clean_KBD]
        if "both" in (self.similarity_on, self.lipschitz_on):
            both.append(self._gradients(training, [crafted] * len(training.members), batch)[1])
        loss = loss + self.weight_similarity * self._similarity(both)

        if self.lipschitz_on == "halves":
            half = len(batch.images) // 2
            # The last images of `crafted`, which may hold the second half alone.
            mixed = torch.cat([batch.images[:half], crafted[half - len(batch.images) :]])
            both = [self._gradients(training, [mixed] * len(training.members), batch)[1]]

        return training.update_members(loss + self.weight_lipschitz * self._steepness(both))

    def _own(self, training: Training, batch: Batch) -> list[Tensor]:
        """The images of each member's CE."""
        if not self.adversarial:
            return [batch.images] * len(training.members)
        return [
            training.craft(replace(batch, draws=batch.draws.fork(i)), member, bn_mode="eval")
            for i, member in enumerate(training.members)
        ]

    def _crafted(self, training: Training, batch: Batch) -> Tensor:
        """Examples against all members, of the second half of the batch where no more is read;
        the images where nothing reads examples."""
        if self.similarity_on == self.lipschitz_on == "clean":
            return batch.images
        if "both" not in (self.similarity_on, self.lipschitz_on):
            batch = batch.select(slice(len(batch.images) // 2, None))
        return training.craft(batch, combine("mean_prob", training.members))

    def _gradients(
        self, training: Training, images: list[Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Losses [members, B] and gradients [members, B, pixels], each member on its images."""
        return losses_and_gradients(training.members, images, batch.labels, self.gradient)

    def _similarity(self, both: list[Tensor]) -> Tensor:
        used = both if self.similarity_on == "both" else both[:1]
        value = torch.stack([similarity(g, self.least).mean() for g in used]).mean()
        # Eq. 3 counts every pair twice and divides by the number of unordered ones.
        return 2 * value if self.pairs == "ordered" else value

    def _steepness(self, both: list[Tensor]) -> Tensor:
        used = both[:1] if self.lipschitz_on == "clean" else both
        squared = self.length == "twice_squared"
        value = torch.stack([steepness(g, squared).mean() for g in used]).mean()
        return 2 * value if squared else value
