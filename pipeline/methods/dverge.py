"""DVERGE (Yang et al., NeurIPS 2020): members learn what fools the others.

Of a source image and a target, x'_j is the point near the source whose features in a layer of
member j are the target's (Eq. 1): momentum steps without a random start. Member i then learns the
source's label on the x'_j of all others, L_i = weight sum_{j != i} CE(z_i(x'_j), y) (Eq. 4), all
points crafted before the first member is updated; with adversarial training it adds the
cross-entropy on its own adversarial examples. The layer is drawn once an epoch.

Departures: an image's target is the one before it in the shuffled batch, where the authors draw
pairs from two loaders; features of released RED leave out the residual sum and its layers stay in
evaluation mode for the rest of an epoch, ours do neither. The authors distil and craft in training
mode, with running statistics moving, and ask for the target's features anew at every step; here it
is done in the recipe's mode, and they are asked once.

Fields tell the released settings apart: the authors start from standard members trained in full
(`dverge_warm`), RED's port from scratch with 7 steps and clipped gradients (`dverge_red`).
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from pipeline.contracts.fields import Radius, Start
from pipeline.contracts.method import Method
from pipeline.contracts.training import Batch, Training
from pipeline.core.ascent import Ascent
from pipeline.core.batchnorm import attack_mode
from pipeline.core.layers import Net
from pipeline.core.losses import cross_entropy
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Dverge(Method):
    """Members that learn each other's weaknesses in turn.

    start: the parent whose members' weights they start from, or none. distance: radius around the
    source, walked in `steps` of step_size. clip: largest norm of a member's gradient, 0 is none.
    """

    start: Start  # whose members' weights these start from
    distance: Radius
    step_size: Radius
    steps: int
    weight: float
    adversarial: bool
    clip: float

    def setup(self, training: Training) -> list[torch.optim.Optimizer]:
        """The recipe's optimisers, of members that start as the parent's."""
        if len(training.members) < 2:
            raise UserError(
                "params.yaml: methods: dverge: one member has no others; take 2 or more"
            )

        if self.start != "none":
            training.start_from("start")
        return super().setup(training)

    def step(self, training: Training, batch: Batch) -> Tensor:
        """Points for every member, then one update of each."""
        depth = self.draw_depth(training)
        points = [self.distil(training, j, batch, depth) for j in range(len(training.members))]
        crafted = [
            training.craft(replace(batch, draws=batch.draws.fork(i)), member)
            for i, member in enumerate(training.members if self.adversarial else [])
        ]

        losses = []
        for i, member in enumerate(training.members):
            others = [cross_entropy(member(x), batch.labels) for x in points[:i] + points[i + 1 :]]
            loss = self.weight * torch.stack(others).sum(0)

            if self.adversarial:
                loss = loss + cross_entropy(member(crafted[i]), batch.labels)
            losses.append(training.update(i, loss, clip=self.clip))
        return torch.stack(losses).mean()

    def draw_depth(self, training: Training) -> int:
        """The epoch's layer, each as likely, 1 to the number of taps."""
        depths = cast(Net, training.members[0]).depths
        return 1 + int(training.draws("depth").integers(depths))

    def distil(self, training: Training, index: int, batch: Batch, depth: int) -> Tensor:
        """Images close to their own whose features in member `index` are another image's."""
        ascent = Ascent(
            norm="linf",
            eps=self.distance,
            step_size=self.step_size,
            steps=self.steps,
            decay=1,
            any_iterate=False,
        )

        with attack_mode(training.members[index], training.recipe.attack_bn_mode) as climbed:
            member = cast(Net, climbed)
            with torch.no_grad():
                # The batch is shuffled, so the image before is a random target.
                wanted = member.features(batch.images.roll(1, 0), depth)

            def nearness(features: Tensor, rows: Tensor) -> Tensor:
                return -(features - wanted[rows]).flatten(1).square().mean(1)

            return ascent.climb(
                lambda images: member.features(images, depth),
                nearness,
                batch.images,
                batch.labels,
                batch.images,
            )
