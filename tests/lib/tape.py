"""A tape of operators in place of a CUDA graph: static memory, the same operators in their order,
Python's numbers as they were when it was recorded."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.core.replay import Recorder


class Tape(TorchDispatchMode):
    """Operators as they run; a graph of them holds no one that hands a number to Python."""

    SYNCS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if (
            name in self.SYNCS
            or "rand" in name
            or any(_is_mask(a) for a in tree_leaves(args) if "index" in name)
        ):
            raise RuntimeError(f"{name} while capturing")
        # Views of now: an operator in place may give a tensor another shape later.
        now = tree_map(_view, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, *now, tree_map(_view, result)))
        return result

    def replay(self) -> None:
        """Run them again and lay each result where it lay."""
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _view(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _is_mask(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def recorder(changed: Callable[[], Iterable[Tensor]] = tuple) -> Recorder:
    """Tapes of what is called; what it changes beside its result is laid back, since a CUDA graph
    is recorded and not run."""

    def record(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        before = [(tensor, tensor.clone()) for tensor in changed()]
        try:
            with Tape() as tape:
                result = work()
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    if not torch.equal(tensor, value):  # what is as it was may be in a graph
                        tensor.copy_(value)

        def replay() -> None:
            # What counts operators sees none of a graph's.
            with torch.no_grad(), _disable_current_modes():
                tape.replay()

        return replay, result

    return record
