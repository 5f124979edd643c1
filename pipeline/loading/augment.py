"""Augmentation as tensor operations on the device; every image draws its own numbers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.draws import Draws


def crop_flip(images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Random crop after zero padding and horizontal flip with probability 1/2.

    images [B, C, H, W] of any dtype; draws has one stream per image.
    """
    size = images.shape[-1]
    padded = F.pad(images, (padding,) * 4)
    offsets = draws.integers(2 * padding + 1, 2)
    flipped = draws.integers(2, 1).bool()
    steps = torch.arange(size, device=images.device)
    rows = offsets[:, :1] + steps
    columns = offsets[:, 1:] + torch.where(flipped, steps.flip(0), steps)
    index = torch.arange(len(images), device=images.device)
    return padded[
        index[:, None, None, None],
        torch.arange(images.shape[1], device=images.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def augment(kind: str, images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Images under the data set's augmentation: `none` or `crop_flip`."""
    return crop_flip(images, padding, draws) if kind == "crop_flip" else images
