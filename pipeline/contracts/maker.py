"""Fresh networks: initial weights are a function of (seed, role, index) alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.core.draws import derive, seed_generators
from pipeline.core.layers import Net


@dataclass(frozen=True)
class Maker:
    """`make(i)` is member i's network; `archs` are the archs that a method's fields name."""

    seed: int
    arch: Callable[[], Net]
    archs: Mapping[str, Callable[[], Net]]

    def __call__(self, index: int) -> nn.Module:
        """Member `index` as its arch builds it."""
        return self.adapted(index, lambda net: net)

    def adapted(self, index: int, adapt: Callable[[Net], nn.Module]) -> nn.Module:
        """Member `index`, changed by `adapt`, which may draw weights of its own."""
        return self._seeded(self.arch, adapt, "init", index)

    def assistant(self, field: str, index: int) -> nn.Module:
        """A network of the arch that the method's field names."""
        return self._seeded(self.archs[field], lambda net: net, field, index)

    def _seeded(
        self,
        arch: Callable[[], Net],
        adapt: Callable[[Net], nn.Module],
        role: str,
        index: int,
    ) -> nn.Module:
        # A fork: drawing a network leaves the process's own stream where it stands.
        with torch.random.fork_rng(devices=[]):
            seed_generators(derive(self.seed, role, index))
            return adapt(arch())
