"""How other projects name the layers of the usual networks, and ours for the same layers.

A layout puts the layers of a file into the order in which images meet them, shortcuts last in
their block; our own networks register theirs in that order. So the layers of both are paired by
place, and nothing is taken unless every tensor has its counterpart of the same shape.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.checkpoint import Weights

OWN, AUTO = "ours", "auto"
COUNTER = "num_batches_tracked"  # a torch before 0.4.1 kept none
INNER = r"\.(?:(?P<kind>conv|bn)(?P<n>\d)|(?:shortcut|downsample|convShortcut)(?:\.(?P<m>\d))?)"
TORCHVISION = INNER.replace("shortcut|downsample|convShortcut", "downsample")


@dataclass(frozen=True)
class Layout:
    """Names before the first block, a block's prefix and its layers, names behind the last."""

    before: tuple[str, ...]
    block: str
    inner: str
    after: tuple[str, ...]
    first: str = "conv"  # what a block begins with: conv, or bn before activation
    unused: tuple[str, ...] = ()  # prefixes of what is registered there and never executed

    def place(self, layer: str) -> tuple[int, ...] | None:
        """Where a layer stands in the order of computation; None for a name of no place."""
        if layer in self.before:
            return (0, self.before.index(layer))
        for index, name in enumerate(self.after):
            if re.fullmatch(name, layer):
                return (2, index)
        match = re.fullmatch(rf"(?P<block>{self.block}){self.inner}", layer)
        if match is None:
            return None

        part, block = match.groupdict(), [int(n) for n in re.findall(r"\d+", match["block"])]
        if part.get("kind"):
            return (1, *block, int(part["n"]), int(part["kind"] != self.first))
        return (1, *block, 99, int(part.get("m") or 0))  # a shortcut, or a block of one layer


LAYOUTS = {
    # He et al.'s blocks: torchvision's, and the usual CIFAR code (kuangliu's, DVERGE's)
    "torchvision": Layout(("conv1", "bn1"), r"layer\d\.\d+", TORCHVISION, ("fc",)),
    "cifar": Layout(("conv1", "bn1"), r"layer\d\.\d+", INNER, ("linear|fc",)),
    # blocks of pre-activations: kuangliu's and Rice et al.'s; wide nets of TRADES and RobustBench
    "preact": Layout(("conv1", "bn1"), r"layer\d\.\d+", INNER, ("bn", "linear|fc"), "bn"),
    "trades": Layout(
        ("conv1",), r"block\d\.layer\.\d+", INNER, ("bn1", "linear|fc"), "bn", ("sub_block1.",)
    ),
    # kuangliu's VGG and MobileNetV2, TRADES' net for MNIST
    "vgg": Layout((), r"features\.\d+", "", ("classifier",)),
    "mobilenet": Layout(("conv1", "bn1"), r"layers\.\d+", INNER, ("conv2", "bn2", "linear|fc")),
    "small_cnn": Layout(
        (), r"feature_extractor\.conv\d", "", tuple(f"classifier.fc{n}" for n in (1, 2, 3))
    ),
}


def rename(weights: Weights, own: Iterable[str], name: str) -> Weights:
    """One network's tensors under our names for them; those of no place keep their own."""
    if name == OWN:
        return weights
    layout = LAYOUTS[name]
    kept = {n: value for n, value in weights.items() if not n.startswith(unused(name))}

    places = {layer: layout.place(layer) for layer in _layers(kept)}
    ordered = sorted((place, layer) for layer, place in places.items() if place is not None)
    ours = dict(zip((layer for _, layer in ordered), _layers(own), strict=False))

    def renamed(tensor: str) -> str:
        layer, _, part = tensor.rpartition(".")
        return f"{ours[layer]}.{part}" if layer in ours else tensor

    return {renamed(n): value for n, value in kept.items()}


def unused(name: str) -> tuple[str, ...]:
    """Prefixes of tensors that a layout registers and never executes."""
    return () if name == OWN else LAYOUTS[name].unused


def _layers(tensors: Iterable[str]) -> list[str]:
    """The layers that tensors belong to, each once, in their order."""
    return list(dict.fromkeys(tensor.rpartition(".")[0] for tensor in tensors))
