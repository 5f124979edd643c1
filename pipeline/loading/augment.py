"""Augmentation: every image draws its own numbers, so batches and resuming change nothing.

A recipe's `augment` is the data set's own, or a policy on top of it: `autoaugment` (with Cutout, as
CCG trains), `idbh_weak` and `idbh_strong` (Li and Spratling, ICLR 2023). Single operations are
torchvision's on uint8 images. Sizes follow the image, being stated for 32 pixels; where the data
set itself does not flip, no policy does. Departure: AutoAugment's shears turn about the image's
centre, where CCG's stay at its upper left corner: up to 5 of 32 pixels aside.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.draws import Draws
from pipeline.datasets._torchvision import torchvision_module

NATIVE = 32  # pixels of a side that the policies are stated for
ATTEMPTS = 10  # to find a rectangle that fits, as torchvision makes


def policy_in(epoch: int, policy: str, after: int) -> str:
    """The policy of a 1-based epoch: the data set's own up to epoch `after`."""
    return policy if epoch > after else "dataset"


def augment(policy: str, own: str, padding: int, images: Tensor, draws: Draws) -> Tensor:
    """uint8 images [B, C, H, W] under a policy, float32 in [0, 1]; `own` is the data set's."""
    if policy.startswith("idbh"):
        return _idbh(images, draws, flips=own != "none", chance=0.5 if "weak" in policy else 1)
    if own == "crop_flip":
        images = crop_flip(images, padding, draws)
    if policy == "autoaugment":
        images = autoaugment(images, draws.fork("policy"))
        return cutout(_floats(images), draws.fork("cutout"))
    return _floats(images)


def _floats(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255


def crop_flip(images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Random crop after zero padding and horizontal flip with probability 1/2.

    images [B, C, H, W] of any dtype; draws has one stream per image.
    """
    size = images.shape[-1]
    padded = F.pad(images, (padding,) * 4)
    offsets = draws.integers(2 * padding + 1, 2)
    flipped = draws.integers(2, 1).bool()
    steps = torch.arange(size, device=images.device)

    # A flip reads the columns from right to left: crop and flip are one look-up.
    rows = offsets[:, :1] + steps
    columns = offsets[:, 1:] + torch.where(flipped, steps.flip(0), steps)
    return _gather(padded, rows, columns)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of each image at its own rows [B, h] and columns [B, w]."""
    index = torch.arange(len(images), device=images.device)
    channels = torch.arange(images.shape[1], device=images.device)
    return images[
        index[:, None, None, None],
        channels[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def crop_shift(images: Tensor, draws: Draws) -> Tensor:
    """A window at another place, up to 10 of 32 pixels less in height plus width (IDBH)."""
    size = images.shape[-1]
    most = round(11 * size / NATIVE)
    lost = draws.integers(most, 1)
    wide = _below(lost + 1, draws)

    rows = _shifted(lost - wide, size, draws)
    columns = _shifted(wide, size, draws)
    moved = _gather(images, rows.clamp_min(0), columns.clamp_min(0))
    kept = (rows >= 0)[:, None, :, None] & (columns >= 0)[:, None, None, :]
    return moved * kept.to(images.dtype)


def _below(bounds: Tensor, draws: Draws) -> Tensor:
    """Whole numbers in [0, bound), int64 [B, 1]."""
    return (draws.uniform(1) * bounds).long()


def _shifted(lost: Tensor, size: int, draws: Draws) -> Tensor:
    """Where each of `size` pixels comes from when `lost` are cut, int64 [B, size]; -1: nowhere."""
    source, target = _below(lost + 1, draws), _below(lost + 1, draws)
    steps = torch.arange(size, device=lost.device) - target
    inside = (steps >= 0) & (steps < size - lost)
    return torch.where(inside, steps + source, -1)


def cutout(images: Tensor, draws: Draws) -> Tensor:
    """A black square of half the side around any pixel, cut at the border."""
    size = images.shape[-1]
    centres = draws.integers(size, 2)
    return images * ~_boxes(size, centres - size // 4, torch.full_like(centres, size // 4 * 2))


def erase(images: Tensor, draws: Draws, chance: float) -> Tensor:
    """With this chance a black rectangle of 2 to 33 % of the image (torchvision's defaults)."""
    size = images.shape[-1]
    area = (0.02 + 0.31 * draws.uniform(ATTEMPTS)) * size**2
    ratio = (math.log(0.3) + math.log(3.3 / 0.3) * draws.uniform(ATTEMPTS)).exp()

    # torchvision tries until one fits: here all tries are drawn, the first that fits counts.
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).round().long()
    fits = (sides < size).all(-1)
    first = fits.to(torch.int8).argmax(1)
    sides = sides[torch.arange(len(images), device=images.device), first]

    corners = (draws.uniform(2) * (size - sides + 1)).long()
    happens = (draws.uniform(1)[:, 0] < chance) & fits.any(1)
    return images * ~(_boxes(size, corners, sides) & happens[:, None, None, None])


def _boxes(size: int, corners: Tensor, sides: Tensor) -> Tensor:
    """Which pixels lie in each image's rectangle, bool [B, 1, size, size]."""
    steps = torch.arange(size, device=corners.device)
    inside = (steps >= corners[..., None]) & (steps < (corners + sides)[..., None])
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def _idbh(images: Tensor, draws: Draws, flips: bool, chance: float) -> Tensor:
    """Flip, CropShift, one of eight ColorShape operations, RandomErasing."""
    if flips:
        images = crop_flip(images, 0, draws.fork("flip"))
    images = color_shape(crop_shift(images, draws.fork("shift")), draws.fork("policy"))
    return erase(_floats(images), draws.fork("erase"), chance)


def color_shape(images: Tensor, draws: Draws) -> Tensor:
    """One operation an image, each with chance 1/8 (IDBH's colour policy)."""
    functional = torchvision_module("transforms.v2.functional")

    def shear(image: Tensor, share: float, sign: float, across: bool) -> Tensor:
        degrees = sign * math.degrees(0.05 + 0.1 * share)
        return _affine(functional, image, shear=[degrees, 0.0] if across else [0.0, degrees])

    operations: list[Callable[[Tensor, float, float, bool], Tensor]] = [
        lambda image, share, *_: functional.adjust_saturation(image, 0.1 + 1.8 * share),
        lambda image, share, *_: functional.adjust_brightness(image, 0.5 + 1.4 * share),
        lambda image, share, *_: functional.adjust_contrast(image, 0.5 + 1.4 * share),
        lambda image, share, *_: functional.adjust_sharpness(image, 0.1 + 1.8 * share),
        lambda image, *_: functional.autocontrast(image),
        lambda image, *_: functional.equalize(image),
        shear,
        lambda image, share, sign, _: functional.rotate(image, sign * (1 + int(10 * share))),
    ]

    which = draws.integers(len(operations), 1)[:, 0].tolist()
    shares, signs = draws.uniform(1)[:, 0].tolist(), draws.signs(1)[:, 0].tolist()
    across = draws.integers(2, 1)[:, 0].tolist()
    return torch.stack([
        operations[op](image, share, sign, bool(axis))
        for image, op, share, sign, axis in zip(images, which, shares, signs, across, strict=True)
    ])  # fmt: skip


def autoaugment(images: Tensor, draws: Draws) -> Tensor:
    """Two operations an image by AutoAugment's policy for CIFAR-10, as CCG's code has them.

    Which, how likely and at which of ten magnitudes is torchvision's; CCG fills with grey, rotates
    one way only, and its strongest magnitude solarises everything. Sheared by bilinear
    interpolation, where CCG's is bicubic.
    """
    transforms = torchvision_module("transforms")
    policies = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10).policies
    which = draws.integers(len(policies), 1)[:, 0].tolist()
    chances, signs = draws.uniform(2).tolist(), draws.signs(2).tolist()

    augmented = []
    for image, number, chance, sign in zip(images, which, chances, signs, strict=True):
        for i, (name, likely, level) in enumerate(policies[number]):
            if chance[i] < likely:
                image = _operate(name, image, (level or 0) / 9, sign[i])
        augmented.append(image)
    return torch.stack(augmented)


def _operate(name: str, image: Tensor, strength: float, sign: float) -> Tensor:
    """One operation of AutoAugment; strength in [0, 1] of its range."""
    functional = torchvision_module("transforms.v2.functional")
    grey, size = [128.0] * image.shape[0], image.shape[-1]
    if name in ("ShearX", "ShearY"):
        angle = sign * math.degrees(math.atan(0.3 * strength))
        shear = [angle, 0.0] if name == "ShearX" else [0.0, angle]
        return _affine(functional, image, shear=shear, fill=grey, interpolation="bilinear")
    if name in ("TranslateX", "TranslateY"):
        # At most 150 of 331 pixels, as AutoAugment states it
        far = round(sign * 150 / 331 * size * strength)
        return _affine(functional, image, translate=[far, 0] if name[-1] == "X" else [0, far],
                       fill=grey)  # fmt: skip
    if name == "Rotate":
        return _tensor(functional.rotate(image, 30 * strength, fill=grey))
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        adjusted = {"Color": "saturation"}.get(name, name.lower())
        return _tensor(getattr(functional, f"adjust_{adjusted}")(image, 1 + sign * 0.9 * strength))
    if name == "Posterize":
        return _tensor(functional.posterize(image, 8 - round(4 * strength)))
    if name == "Solarize":  # from nothing to everything
        return torch.where(image.int() >= round(256 * (1 - strength)), 255 - image, image)
    return _tensor(getattr(functional, name.lower())(image))


def _affine(functional: Any, image: Tensor, **changed: Any) -> Tensor:
    """An affine map of one image: nearest pixels and black outside unless `changed`."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    modes = torchvision_module("transforms").InterpolationMode
    mode = modes(changed.pop("interpolation", "nearest"))
    return _tensor(functional.affine(image, **{**still, **changed}, interpolation=mode))


def _tensor(image: Any) -> Tensor:
    found: Tensor = image
    return found
