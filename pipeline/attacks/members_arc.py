"""ARC: members of a random ensemble fooled one after the other (Dbouk and Shanbhag, ICML 2022).

Its model is the surrogate `answers`. Departures from the authors' code: the label takes the place
of the largest score, so that a member that errs is left alone instead of led back; every member
is as likely as any other, so the order is only rotated by step, and drawn by nobody.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attacks._members import Best, share_right
from pipeline.contracts.fields import Radius
from pipeline.core.ascent import gradient_in, rank_rivals
from pipeline.core.draws import Draws
from pipeline.core.losses import TINY, gap
from pipeline.core.norms import lengths, per_image, project, uniform_start
from pipeline.errors import UserError

BEYOND = 0.05  # the paper's rho: this part of the radius past a boundary


@dataclass(frozen=True, kw_only=True)
class MembersARC:
    """Per step and member the shortest l_inf move that fools it too, if fewer are right after it.

    A move has at most `step_size`; the nearest boundary is sought among `targets` rival classes.
    Further restarts begin at a random point, the first one at the clean image.
    """

    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    targets: int

    def __post_init__(self) -> None:
        """Refuse to look for a boundary towards no class."""
        if self.targets < 1:
            raise UserError("params.yaml: attacks: members_arc needs targets of 1 or more")

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in ball and box, detached."""
        answers = model(images)
        members = answers.shape[1]
        best = Best(images.clone(), share_right(answers, labels, "all"))
        for number in range(self.restarts):
            rows = best.standing()
            moved = images[rows]
            if number:
                own = draws.fork(number).select(rows)
                moved = uniform_start("linf", moved, self.eps, own)

            for step in range(self.steps):
                order = [(step + i) % members for i in range(members)]
                moved, shares = self._step(model, images[rows], labels[rows], moved, order)
                best.take(rows, moved, shares, -shares)
                rows, moved = rows[shares > 0], moved[shares > 0]
                if not len(rows):
                    break
        return best.images

    def _step(
        self, model: nn.Module, clean: Tensor, labels: Tensor, moved: Tensor, order: list[int]
    ) -> tuple[Tensor, Tensor]:
        """The images after every member has been tried, and the share right on them, [B]."""
        local = torch.zeros_like(moved)
        shares = share_right(model(moved), labels, "all")

        for place, member in enumerate(order):
            there = project("linf", moved + local, clean, self.eps)
            zeta, normals = self._boundary(model, there, labels, member)

            far = torch.full_like(zeta, self.step_size)
            if place:  # as far as this member needs, so that those before stay fooled
                along = (normals * local).flatten(1).sum(1)
                needed = self.step_size / (self.step_size - zeta + TINY) * (zeta - along).abs()
                needed = needed + BEYOND * self.eps
                far = torch.where(zeta < self.step_size, needed, far)

            # The whole move always has the full length of a step.
            hat = local + per_image(far, local) * normals.sign()
            longest = lengths("linf", hat).clamp_min(TINY)
            hat = hat * per_image(self.step_size / longest, hat)

            found = share_right(model(project("linf", moved + hat, clean, self.eps)), labels, "all")
            # Equals too: a move that fools this member and loses none may serve the next one.
            better = (found <= shares) & (zeta > 0)
            local = torch.where(per_image(better, local), hat, local)
            shares = torch.where(better, found, shares)
        return project("linf", moved + local, clean, self.eps), shares

    def _boundary(
        self, model: nn.Module, images: Tensor, labels: Tensor, member: int
    ) -> tuple[Tensor, Tensor]:
        """l_inf distance [B] to a member's nearest linearised boundary, 0 where it errs, and the
        boundary's normal divided by its l1 norm."""
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = model(images)[:, member, :-1]
            rivals = rank_rivals(logits.detach(), labels, self.targets)
            gaps = [gap(logits, labels, rival) for rival in rivals.unbind(1)]

        nearest = torch.full_like(gaps[0], torch.inf)
        normals = torch.zeros_like(images)
        for values in gaps:
            slopes = gradient_in(images, values, keep_graph=True)
            # The l_inf distance to a hyperplane is |gap| over the l1 norm of its normal.
            sizes = slopes.flatten(1).abs().sum(1).clamp_min(TINY)
            distances = (-values.detach() / sizes).clamp_min(0)

            nearer = distances < nearest
            nearest = torch.where(nearer, distances, nearest)
            normals = torch.where(
                per_image(nearer, slopes), slopes / per_image(sizes, slopes), normals
            )
        return nearest, normals
