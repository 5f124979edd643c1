"""A prepared split on the device, and the batches of an epoch."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pipeline.contracts.dataset import stratified
from pipeline.contracts.training import Batch
from pipeline.core.draws import Draws, derive
from pipeline.errors import UserError
from pipeline.loading.augment import augment
from pipeline.plan import Dataset
from pipeline.store import manifest
from pipeline.store.files import load_safetensors


@dataclass(frozen=True)
class Split:
    """images uint8 [N, C, H, W], labels int64 [N], both on the device; statistics in [0, 1].

    std is what nets divide by: 1 for a channel that is the same in every training image.
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    mean: list[float]
    std: list[float]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def floats(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Images of some rows as float32 in [0, 1]."""
        return self.images[rows].to(torch.float32) / 255

    def subset(self, rows: Tensor) -> "Split":
        """Some rows, in that order."""
        return Split(self.images[rows], self.labels[rows], self.names, self.mean, self.std)


def load_split(dataset: Dataset, split: str, device: torch.device, root: Path = Path()) -> Split:
    """The `train`, `validation` or `test` split of a prepared data set."""
    path = root / dataset.folder / f"{split}.safetensors"
    manifest.verify(path)
    prepare = f"python -m pipeline.prepare {dataset.name}"
    remedy = f"delete it and run {prepare}"
    missing = f"run python -m pipeline.download {dataset.name}, then {prepare}"
    tensors, metadata = load_safetensors(path, remedy, missing)

    try:
        names, mean, std = (json.loads(metadata[key]) for key in ("classes", "mean", "std"))
        divisors = [1.0 if deviation == 0 else deviation for deviation in std]
        loaded = Split(tensors["images"], tensors["labels"], names, mean, divisors)
        is_whole = metadata["digest"] == dataset.digest and _is_whole(loaded)
    except (KeyError, TypeError, ValueError, RecursionError):
        is_whole = False

    if not is_whole:
        raise UserError(f"{path}: holds no split of {dataset.name} as prepared today; {remedy}")
    return replace(loaded, images=loaded.images.to(device), labels=loaded.labels.to(device))


def _is_whole(split: Split) -> bool:
    """Whether pixels, labels, classes and statistics are of the types and shapes they must have."""
    images, labels = split.images, split.labels
    if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        return False
    if labels.dtype != torch.int64 or not all(isinstance(name, str) for name in split.names):
        return False

    channels = {len(split.mean), len(split.std)} == {images.shape[1]}
    numbers = all(math.isfinite(n) for n in (*split.mean, *split.std))
    in_range = bool(((labels >= 0) & (labels < len(split.names))).all())
    return channels and numbers and in_range


def load_training(dataset: Dataset, images: int, held_out: str, device: torch.device) -> Split:
    """What a recipe trains on: a stratified part of at most so many `images`, or all (0).

    Validation images that nothing validates on stand behind them. Statistics stay the split's.
    """
    split = load_split(dataset, "train", device)
    if held_out == "if_validated":  # and it does not, or the plan says always
        other = load_split(dataset, "validation", device)
        both = [
            torch.cat(pair) for pair in ((split.images, other.images), (split.labels, other.labels))
        ]
        split = replace(split, images=both[0], labels=both[1])
    return cut(split, images, dataset.fields["split_seed"])


def cut(split: Split, images: int, seed: int) -> Split:
    """A stratified part of a split, all of it where it has no more images; 0 is all too."""
    if not 0 < images < len(split):
        return split
    rows = stratified(split.labels.cpu().numpy(), images, seed)[1]
    return split.subset(torch.from_numpy(rows).to(split.labels.device))


def batches(
    split: Split,
    dataset: Dataset,
    size: int,
    seed: int,
    epoch: int,
    first: int = 0,
    policy: str = "dataset",
) -> Iterator[Batch]:
    """The batches of one epoch from number `first` on, augmented by a policy (augment.py).

    Order, augmentation and every later draw are functions of (seed, epoch, image), so that a
    resumed epoch goes on exactly where it stood. A last batch of one image joins none: batch
    statistics need two.
    """
    if size < 2:
        raise UserError(f"params.yaml: recipes: batch_size {size}: batch statistics need 2 or more")

    # On the CPU, so that every device gets the same order.
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    chunks = [c for c in torch.split(order, size) if len(c) > 1]

    for rows in chunks[first:]:
        draws = Draws(derive(seed, "epoch", epoch), rows)
        own, padding = dataset.fields["augment"], dataset.fields["padding"]
        again = partial(augment, policy, own, padding, split.images[rows])

        is_fixed = (policy, own) == ("dataset", "none")
        images = again(draws.fork("augment"))
        yield Batch(images, split.labels[rows], draws, None if is_fixed else again)


def subset(images: int, available: int) -> list[int]:
    """The fixed index list: all, or Python's sample with seed 0 (as DVERGE and SoE draw it)."""
    if not 1 <= images <= available:
        raise UserError(
            f"params.yaml: images: {images} asked for, the test split has {available}; lower it in "
            "the table's entry"
        )
    if images == available:
        return list(range(available))
    return sorted(random.Random(0).sample(range(available), images))
