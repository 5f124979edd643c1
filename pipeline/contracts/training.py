"""What a method's update works on: members, their optimisers, the training attack."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.contracts.attack import Attack
from pipeline.contracts.recipe import Recipe
from pipeline.core.ascent import is_random
from pipeline.core.batchnorm import attack_mode
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination
from pipeline.core.replay import Replays, Work
from pipeline.errors import UserError


@dataclass(frozen=True)
class Batch:
    """images float32 [B, C, H, W] in [0, 1]; labels int64 [B]; one stream of draws an image.

    augment: the same images augmented by other draws; None where images are not augmented.
    """

    images: Tensor
    labels: Tensor
    draws: Draws
    augment: Callable[[Draws], Tensor] | None = None

    @property
    def ids(self) -> Tensor:
        """The images' numbers in the training set, int64 [B]: rows of a memory."""
        return self.draws.ids

    def select(self, rows: slice) -> Self:
        """Some images, with their labels and draws; views of them are not to be had."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            draws=self.draws.select(rows),
            augment=self.augment and _refuse_view,
        )

    def view(self, number: int) -> Tensor:
        """The same images augmented independently of `images` and of other numbers' views."""
        if self.augment is None:
            return self.images
        return self.augment(self.draws.fork("augment").fork(number))


def _refuse_view(draws: Draws) -> Tensor:
    raise UserError("part of a batch has no further view; give this method micro_batch: 0")


@dataclass
class Training:
    """Members in training, and assistants that train along but are no part of the ensemble.

    `epoch` is 1-based; `parents` are frozen models and `attacks` built ones, by the method's
    field that names them. `images` is the size of the training set.
    """

    members: list[nn.Module]
    ensemble: Combination
    recipe: Recipe
    attack: Attack | None
    classes: int
    parents: Mapping[str, Combination] = field(default_factory=dict)
    assistants: list[nn.Module] = field(default_factory=list)
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    seed: int = 0
    epoch: int = 1
    images: int = 0
    memories: dict[str, Tensor] = field(default_factory=dict)
    replays: Replays | None = None  # on a GPU
    # while a batch is learnt in parts: this one's share of the images, and the optimisers whose
    # steps wait for the last, with their bounds
    _share: float = 1
    _waiting: dict[torch.optim.Optimizer, float] | None = None

    @property
    def networks(self) -> list[nn.Module]:
        """All that is trained, in the order of the optimisers."""
        return [*self.members, *self.assistants]

    def sgd(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The recipe's optimiser; its rate is set at every step by the schedule."""
        r = self.recipe
        return torch.optim.SGD(
            parameters,
            lr=r.lr,
            momentum=r.momentum,
            weight_decay=r.weight_decay,
            nesterov=r.nesterov,
        )

    def start_from(self, field: str) -> None:
        """Give the members the weights of those of the parent that a field names, in turn.

        Raises UserError where these are not as many, or of another shape.
        """
        trained = self.parents[field].members
        if len(trained) != len(self.members):
            raise UserError(
                f"params.yaml: parents: {len(trained)} trained members cannot start "
                f"{len(self.members)} (the method's {field}); give the parent as many"
            )
        try:
            for member, other in zip(self.members, trained, strict=True):
                member.load_state_dict(other.state_dict())
        except RuntimeError:
            raise UserError(
                f"params.yaml: parents: networks of another shape cannot start these members (the "
                f"method's {field}); give the parent the row's arch and a method with its heads"
            ) from None

    def memory(self, name: str, *shape: int) -> Tensor:
        """What the method keeps of every training image, float32 [images, *shape].

        Zeros at first; written in place at `batch.ids`; saved and resumed with the members. An
        image may be met after the first epoch: a last batch of one image is left out.
        """
        if name not in self.memories:
            where = next(self.members[0].parameters()).device
            self.memories[name] = torch.zeros(self.images, *shape, device=where)
        return self.memories[name]

    def draws(self, purpose: str) -> Draws:
        """One stream of numbers for the whole of this epoch."""
        return Draws(derive(self.seed, purpose, self.epoch), torch.zeros(1, dtype=torch.int64))

    def craft(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        attack: Attack | None = None,
        bn_mode: str = "",
    ) -> Tensor:
        """Training examples against `model` (default: the ensemble).

        By the recipe's attack, or another one; the images themselves when there is none. In the
        recipe's BN mode, or another one.
        """
        crafting = self.attack if attack is None else attack
        if crafting is None:
            return batch.images

        target = self.ensemble if model is None else model
        mode = bn_mode or self.recipe.attack_bn_mode

        def craft(images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
            with attack_mode(target, mode, is_cast=True) as climbed:
                return crafting(climbed, images, labels, draws)

        draws = batch.draws.fork("attack")
        if is_random(target) or not _is_capturable(crafting):
            return craft(batch.images, batch.labels, draws)
        # A rule has no weights of its own, and may be as new as the batch.
        nets = tuple(target.members) if isinstance(target, Combination) else (target,)
        kind = f"{mode} {type(target).__name__}"
        return self.replayed(mode, kind, (crafting, *nets), craft, batch, draws)

    def replayed(
        self,
        mode: str,
        kind: str,
        held: tuple[object, ...],
        craft: Work,
        batch: Batch,
        draws: Draws,
    ) -> Tensor:
        """`craft` of the batch's images, labels and these draws, in a BN mode; on a GPU what is
        launched is recorded once and replayed (pipeline/core/replay.py).

        kind, held: a word and the objects, the same ones at every batch, of what it depends on
        beside them. It may not choose by values of tensors what to launch.
        """
        # What updates statistics cannot be done twice to compare, dropout not be drawn twice.
        is_repeatable = mode == "eval" or (mode == "train_frozen" and not has_dropout(held))
        if self.replays is None or not is_repeatable:
            return craft(batch.images, batch.labels, draws)
        return self.replays.run(kind, held, craft, batch.images, batch.labels, draws)

    def split(self, batch: Batch) -> list[Batch]:
        """The batch, or parts of nearly equal size of at most the recipe's `micro_batch` images.

        No part has one image alone, of which there are no batch statistics.
        """
        size, most = len(batch.labels), self.recipe.micro_batch
        if not 0 < most < size:
            return [batch]
        count = min(-(-size // most), size // 2)
        bounds = [size * i // count for i in range(count + 1)]
        return [batch.select(slice(*pair)) for pair in pairwise(bounds)]

    def learn(self, parts: Sequence[Batch], step: Callable[[int], Tensor]) -> Tensor:
        """`step(0)`, `step(1)` ... of a batch's parts with their updates made as one, by the
        gradient of the mean over all images; returns the mean loss."""
        if len(parts) == 1:
            return step(0)

        images, losses = sum(len(part.labels) for part in parts), []
        _clear(self.optimisers)
        self._waiting = {}
        try:
            for i, part in enumerate(parts):
                self._share = len(part.labels) / images
                losses.append(self._share * step(i))
            _step(self._waiting)
        finally:
            self._waiting = None
        return torch.stack(losses).sum()

    def update(self, index: int, losses: Tensor, clip: float = 0) -> Tensor:
        """One step of optimiser `index` on the mean of losses [B]; returns that mean.

        clip: largest l2 norm of its gradient; 0 is no bound. Raises UserError unless losses are
        [B], or their mean alone.
        """
        if losses.dim() > 1:
            raise UserError(
                f"losses are {tuple(losses.shape)}, not one of each image: let the method's `loss` "
                "or `step` reduce the others, by a sum over classes for instance"
            )
        return self._descend([self.optimisers[index]], losses.mean(), clip)

    def update_members(self, loss: Tensor, clip: float = 0) -> Tensor:
        """One step of every member's optimiser down one common loss; returns it.

        Raises UserError unless that is one number.
        """
        if loss.dim():
            raise UserError(
                f"the members' loss is {tuple(loss.shape)}, not one number: let the method's "
                "`step` take the mean over images"
            )
        return self._descend(self.optimisers[: len(self.members)], loss, clip)

    def _descend(
        self, optimisers: list[torch.optim.Optimizer], loss: Tensor, clip: float
    ) -> Tensor:
        bounds = dict.fromkeys(optimisers, clip)
        if self._waiting is not None:
            (self._share * loss).backward()  # type: ignore[no-untyped-call]
            self._waiting |= bounds
            return loss.detach()

        _clear(optimisers)
        loss.backward()  # type: ignore[no-untyped-call]
        _step(bounds)
        return loss.detach()


def _is_capturable(attack: Attack) -> bool:
    """Whether it launches the same whatever the images are: one PGD in the linf ball."""
    fields = vars(attack) if hasattr(attack, "__dict__") else {}
    wanted = {"norm": "linf", "restarts": 1, "any_iterate": False}
    return all(fields.get(name) == value for name, value in wanted.items())


def has_dropout(held: Iterable[object]) -> bool:
    """Whether any of the networks among these draws what it drops."""
    modules = [m for part in held if isinstance(part, nn.Module) for m in part.modules()]
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p for m in modules)


def _clear(optimisers: Iterable[torch.optim.Optimizer]) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)


def _step(bounds: Mapping[torch.optim.Optimizer, float]) -> None:
    """One step of each optimiser, its gradient no longer than its bound; 0 is none."""
    for optimiser, clip in bounds.items():
        if clip:
            moved = [p for group in optimiser.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(moved, clip)
        optimiser.step()
