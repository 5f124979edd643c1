"""Counter-based random numbers per sample: the same whatever the batch size, order or device."""

import hashlib
import json
import math
import random
from copy import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor

# SplitMix64 (Steele, Lea, Flood 2014): the golden-ratio increment and the finaliser's constants,
# written as the signed 64-bit numbers that torch holds.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def derive(key: int, *purposes: str | int) -> int:
    """A 63-bit seed for a purpose, such as `derive(seed, "attack", epoch)`, by SHA-256."""
    text = json.dumps([key, *purposes])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_generators(seed: int) -> None:
    """Seed the generators of torch, numpy and Python, for code that draws from one of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place: a bijection of int64 in which every bit depends on all."""
    words ^= (words >> 30) & 0x3FFFFFFFF  # the mask makes torch's arithmetic shift a logical one
    words *= MIX_1
    words ^= (words >> 27) & 0x1FFFFFFFFF
    words *= MIX_2
    words ^= (words >> 31) & 0x1FFFFFFFF
    return words


class Draws:
    """One stream of random numbers per sample, a function of (key, id, purposes, call, position).

    Uniforms, integers and signs are bit-identical on every device; normals up to rounding.
    """

    def __init__(self, key: int, ids: Tensor) -> None:
        """Streams of the samples `ids`, int64 [B]; the numbers come out on their device."""
        self.ids = ids
        self._state = _mix(_mix(ids.clone()) ^ derive(key))
        self._calls = 0

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._state)

    def fork(self, purpose: str | int) -> Self:
        """Independent streams of the same samples; the same purpose gives the same streams."""
        forked = copy(self)
        forked._state = _mix(self._state ^ derive(0, purpose))
        forked._calls = 0
        return forked

    def select(self, rows: Tensor | slice) -> Self:
        """The streams of some samples (mask, index or slice), each going on where it stands."""
        selected = copy(self)
        selected.ids, selected._state = self.ids[rows], self._state[rows]
        return selected

    def clone(self) -> Self:
        """The same streams, each going on where it stands, on memory of their own."""
        cloned = copy(self)
        cloned.ids, cloned._state = self.ids.clone(), self._state.clone()
        return cloned

    def become(self, other: Self) -> None:
        """Go on as the streams of as many other samples, in place."""
        self.ids.copy_(other.ids)
        self._state.copy_(other._state)
        self._calls = other._calls

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) on a grid of 2**-24, float32 [B, *shape]."""
        words = self._words(shape)
        # The upper 24 bits, as many as a float32 holds exactly.
        words >>= 8
        words &= 0xFFFFFF
        return words.to(torch.float32).mul_(2.0**-24)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 [B, *shape] (Box and Muller 1958)."""
        # In float64, so that rounding to float32 hides how a device or a tail computes log and cos.
        uniforms = self.uniform(2, *shape).to(torch.float64)
        # 1 - u lies in (0, 1], so its logarithm is finite.
        radius = (1 - uniforms[:, 0]).log_().mul_(-2).sqrt_()
        return radius.mul_(uniforms[:, 1].mul(2 * math.pi).cos_()).to(torch.float32)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), int64 [B, *shape]; high is at most 2**31."""
        words = self._words(shape).to(torch.int64)
        # Multiply and shift (Lemire 2019) without his rejection: a bias below high / 2**32.
        return (words & 0xFFFFFFFF) * high >> 32

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1 with equal chance, float32 [B, *shape]."""
        return (self._words(shape) >> 31 | 1).to(torch.float32)  # -1 | 1 is -1, 0 | 1 is 1

    def _words(self, shape: tuple[int, ...]) -> Tensor:
        """Fresh random bits, int32 [B, *shape]: two to a 64-bit word of SplitMix64."""
        self._calls += 1
        # Every call starts a sequence of its own, so what one call takes moves no other.
        start = _mix(self._state + self._signed(self._calls * GOLDEN))
        count = math.prod(shape)
        steps = torch.arange(1, (count + 1) // 2 + 1, device=start.device).mul_(GOLDEN)
        words = _mix(start[:, None] + steps).view(torch.int32)
        return words[:, :count].reshape(len(self), *shape)

    @staticmethod
    def _signed(number: int) -> int:
        """The number modulo 2**64 as torch's int64 holds it."""
        return (number + 2**63) % 2**64 - 2**63
