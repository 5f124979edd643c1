"""SIGTERM and SIGUSR1 as a request to save and stop (SLURM's warning before a time limit)."""

import signal
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Inside this context a signal only sets `requested`; a second Ctrl-C acts as usual.

    A cluster may send SIGTERM twice within a second (SLURM does when it preempts): the second
    must not cut the saving that the first one asked for.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Listen."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            # The next Ctrl-C ends the process at once.
            signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *_: object) -> None:
        """Restore the handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
