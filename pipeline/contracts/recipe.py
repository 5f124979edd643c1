"""A recipe: how a paper trains, apart from what is its method's own."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.contracts.fields import Attack, Epoch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fields of an entry of `recipes:`; a method's entry may override any of them."""

    epochs: int
    batch_size: int
    lr: float  # of SGD; the peak for one_cycle
    schedule: Literal["multi_step", "piecewise_linear", "one_cycle"]
    # multi_step: from epoch milestones[i] + 1 on, lr is lr_values[i]. piecewise_linear: knots
    # (milestones[i], lr_values[i]). one_cycle: warm-up until milestones[0], then cosine, with
    # lr_values = [start, end].
    milestones: list[Epoch]
    lr_values: list[float]
    momentum: float
    nesterov: bool
    weight_decay: float
    attack: Attack  # crafts the training examples, or none
    attack_bn_mode: Literal["eval", "train_frozen", "train_update"]
    normalise: bool  # by the training split's channel statistics, inside the model
    train_images: int  # at most so many, the first ones in stratified order; 0 is all
    precision: Literal["fp32", "bf16"]
    ema_decay: float  # per-step average of the weights; 0 is none
    ema_start: Epoch
    ema_buffers: Literal["copied", "averaged"]
    ema_first: Literal["first_step", "initial"]  # what the average starts from
    ema_warmup: bool  # whether the decay of update t, from 0, is at most (t + 1) / (t + 10)
    augment: Literal["dataset", "autoaugment", "idbh_weak", "idbh_strong"]
    augment_after: Epoch  # up to it the data set's own augmentation; 0: from the start
    select: Literal["best_val", "best_test_as_published", "lowest_train_loss"]
    validate_every: int  # epochs; 0 is never (then best is last)
    validation_attack: Attack

    # Optional, and in a run's name only where not the default:

    # validation images: left out of training always, or only where the recipe validates on them
    held_out: Literal["always", "if_validated"] = "always"
    # of images with as many channels; all others have the training split's
    input_std: list[float] = field(default_factory=list)
    # images at a time, where memory holds no whole batch: their gradients are summed before the
    # update, batch normalisation is each part's own; 0 is the whole batch
    micro_batch: int = 0
