"""Work on a GPU that is launched once more: recorded as a CUDA graph and replayed.

Ten steps against a small net are some two thousand kernels, each shorter than its launch. Recorded
they are launched together: the same kernels on the same addresses, so the same bytes. The first
replay of every recording, and now and then another, is compared with the work as it comes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pipeline.core.draws import Draws
from pipeline.errors import UserError

Work: TypeAlias = Callable[[Tensor, Tensor, Draws], Tensor]  # images, labels, draws -> its result
# what is called without arguments -> what launches the same again, and where its result then lies
Recorder: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
Key: TypeAlias = tuple[str, tuple[int, ...]]
Input: TypeAlias = tuple[Tensor, Tensor, Draws]

MOST_RECORDINGS = 32  # a method that builds what it climbs anew each time would fill the device
MOST_MEMORY = 0.1  # of the device's: what takes more gains little, and a recording keeps it


@dataclass
class _Recording:
    """Work on a batch of one shape, on memory of its own."""

    images: Tensor
    labels: Tensor
    draws: Draws
    launch: Callable[[], object]
    result: Tensor
    held: tuple[Any, ...]  # whose tensors it reads and writes
    is_proved: bool = False

    def replay(self, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """The same on another batch."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.draws.become(draws)
        self.launch()
        return self.result.clone()


class ReplayError(UserError):
    """A replay that is not what it stands for: what was trained with it is not to be kept."""


class Replays:
    """Recordings by what is worked on, whose tensors change in place.

    Work that comes twice in one shape is recorded; its other shapes, as of a last batch, never are.
    changed: the tensors that it writes beside its result, detached. what: it, for a line that says
    why it is not replayed. `is_checking`: batches are worked on as they come, and replayed beside.
    """

    def __init__(
        self,
        what: str = "crafting",
        changed: Callable[[], Iterable[Tensor]] = tuple,
        record: Recorder | None = None,
    ) -> None:
        self.is_checking = False
        self._what, self._changed, self._record = what, changed, record
        self._recordings: dict[Key, _Recording | None] = {}  # None: not to be recorded
        self._seen: set[tuple[Key, torch.Size]] = set()
        self._pool: Any = None

    @property
    def count(self) -> int:
        """How many recordings there are."""
        return sum(recording is not None for recording in self._recordings.values())

    @property
    def is_refused(self) -> bool:
        """Whether something is not to be recorded."""
        return None in self._recordings.values()

    def forget(self) -> None:
        """Record anew what is recorded: something else that it depends on has changed."""
        self._recordings = {key: None for key, r in self._recordings.items() if r is None}
        self._seen.clear()

    def run(
        self,
        kind: str,
        held: tuple[Any, ...],
        work: Work,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
    ) -> Tensor:
        """What `work` makes of this batch, bit for bit; `kind` and `held` are all that it depends
        on beside it. Raises ReplayError where one that is compared differs."""
        key, batch = (kind, tuple(map(id, held))), (images, labels, draws)
        if key in self._recordings:
            recording = self._recordings[key]
            if recording is None or recording.images.shape != images.shape:
                return work(*batch)
            if self.is_checking or not recording.is_proved:
                return self._compare(recording, work, batch)
            return recording.replay(*batch)

        # The first time loads the libraries that a recording may not load.
        is_new = (key, images.shape) not in self._seen
        self._seen.add((key, images.shape))
        if self.is_checking or is_new or len(self._recordings) == MOST_RECORDINGS:
            return work(*batch)

        own = images.clone(), labels.clone(), draws.clone()  # before the work draws
        result, share = _measure(lambda: work(*batch))
        if share > MOST_MEMORY:
            self._recordings[key] = None
            self._say(f"it takes {share:.0%} of the GPU's memory, more than {MOST_MEMORY:.0%}")
        else:
            self._recordings[key] = self._try(held, work, own)
        return result

    def _compare(self, recording: _Recording, work: Work, batch: Input) -> Tensor:
        """The result of the work, once it was done in both ways from the same state."""
        changed = list(self._changed())
        before = [tensor.clone() for tensor in changed]
        found = [work(*batch), *(tensor.clone() for tensor in changed)]

        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        replayed = [recording.replay(*batch), *changed]
        if not all(map(_is_same, found, replayed)):
            raise ReplayError(
                f"{self._what} as a CUDA graph differs from what is launched kernel by kernel: set "
                "resources.train.graphs to none in params.yaml; this training begins anew"
            )
        recording.is_proved = True
        return found[0]

    def _try(self, held: tuple[Any, ...], work: Work, own: Input) -> _Recording | None:
        """A recording; none, and a line that says why, where the device refuses."""
        record = self._record or self._capture
        try:
            launch, result = record(lambda: work(*own))
        except RuntimeError as error:
            self._pool = None  # what a refused capture leaves in it is in the way of the next
            self._say(str(_first_cause(error)).splitlines()[0])
            return None
        return _Recording(*own, launch, result, held)

    def _capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """A CUDA graph. They share memory, since one is replayed after the other; that of none is
        not to be had again."""
        if self._pool is None or not self.count:
            self._pool = torch.cuda.graph_pool_handle()
        stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = work()
        finally:
            torch.cuda.set_stream(stream)  # which a refused capture does not restore
        return graph.replay, result

    def _say(self, why: str) -> None:
        print(f"{self._what} is launched kernel by kernel, not as a CUDA graph: {why}", flush=True)


def _measure(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What is made, and the share of a GPU's memory that it took; 0 elsewhere."""
    if not torch.cuda.is_available():
        return work(), 0
    torch.cuda.reset_peak_memory_stats()
    before, (_, whole) = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
    return work(), (torch.cuda.max_memory_allocated() - before) / whole


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit: a NaN is itself, and 0 is not -0."""
    bits = [t.contiguous().flatten().view(torch.uint8) for t in (one, other)]
    return torch.equal(*bits)


def _first_cause(error: BaseException) -> BaseException:
    """What was raised first: the end of a capture says only that something was."""
    while error.__context__ is not None:
        error = error.__context__
    return error
