"""One process at a time for an artifact, on any machine, where the file system has no locks.

A lease is the file with the highest number in `work/leases/<name>/`. It is taken by creating the
next number exclusively, which succeeds for one process alone, on NFS too, and it is kept by
setting its time every few seconds. Who waits never compares clocks: a holder is gone when the
file's time has stood still for STALE seconds of the waiting process, or at once when its process
is seen to be dead on this machine. Whoever takes over deletes the old holder's file, so one that
was only asleep fails at its next beat and ends before it writes. Numbers are not used twice.
"""

import errno
import json
import os
import platform
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import EXIT_INTERRUPTED, UserError
from pipeline.store.files import storing

BEAT = 5.0  # seconds
STALE = 60.0  # seconds; many beats, so that a slow file server is not a death
ROOT = Path("work/leases")
GONE = (errno.ENOENT, errno.ESTALE)
HOLDER = {"host", "pid", "start", "place", "job"}
_HELD: "list[Lease]" = []


@dataclass(frozen=True)
class Seen:
    """The highest lease file at one look: who holds it, and its time as the server tells it."""

    number: int
    holder: dict[str, Any] | None  # None once released
    stamp: int


class Taken(UserError):
    """Another process works on it."""


class Lease:
    """The right to work on `name`; use `hold`."""

    def __init__(self, name: str) -> None:
        # Absolute: its process may go to another folder, as `judge` does.
        self.name, self.folder = name, (ROOT / name).absolute()
        self.path = self.folder / "0"
        self._done = threading.Event()

    def take(self, patient: bool) -> None:
        """Return when the lease is ours; with `patient` false a living holder is Taken."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        seen, since, has_told = self._look(), time.monotonic(), False
        while not self._try(seen, since):
            # A holder that is seen to live on this machine needs no wait to be believed.
            if not patient and seen and _lives_here(seen.holder):
                raise self._taken(seen)

            if not has_told:
                print(f"{self.name}: {_describe(seen)} works on it; waiting", flush=True)
                has_told = True
            # At random, so that not all who wait ask the file server at the same moment.
            time.sleep(0.2 + secrets.randbelow(300) / 1000)
            now = self._look()
            # The server's time is only compared for being another one, never with a clock of ours.
            if (now and (now.number, now.stamp)) != (seen and (seen.number, seen.stamp)):
                if not patient and now and not _is_over(now.holder):
                    raise self._taken(now)
                seen, since = now, time.monotonic()

        threading.Thread(target=self._beat, name=f"lease {self.name}", daemon=True).start()

    def _taken(self, seen: Seen) -> Taken:
        return Taken(f"{self.name}: {_describe(seen)} works on it; wait for it or stop it")

    def _try(self, seen: Seen | None, since: float) -> bool:
        if seen and not _is_over(seen.holder) and time.monotonic() - since < STALE:
            return False

        number = seen.number + 1 if seen else 1
        path = self.folder / str(number)
        try:
            # Exclusive creation: of all that try this number one succeeds, on NFS too.
            with path.open("xb") as file:
                file.write(json.dumps(_self()).encode())
        except FileExistsError:
            return False
        now = self._look()
        if now is None or now.number != number:  # numbers went on while we were asleep
            path.unlink(missing_ok=True)
            return False

        self.path = path
        # A holder that only slept misses its file at its next beat, and ends before it writes.
        for old in self._numbers():
            if old < number:
                (self.folder / str(old)).unlink(missing_ok=True)
        return True

    def _numbers(self) -> list[int]:
        # Not those that are on their way to be written, such as `7.released`.
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal())

    def _look(self) -> Seen | None:
        """The highest file; opened, since NFS then asks the server for its time.

        Raises UserError where this user may not read it: nobody then knows that it is free.
        """
        for number in reversed(self._numbers()):
            path = self.folder / str(number)
            try:
                with path.open("rb") as file:
                    stamp = os.fstat(file.fileno()).st_mtime_ns
                    return Seen(number, _holder(file.read()), stamp)
            except PermissionError as error:
                raise UserError(
                    f"{path}: cannot be read, so nobody sees whether {self.name} is free: its "
                    f"owner types chmod -R g+rwX {ROOT}, and umask 002 from then on"
                ) from error
            except OSError as error:
                if error.errno not in GONE:
                    raise
                # Whoever takes over has just deleted it: the next lower one is looked at.
        return None

    def check(self) -> None:
        """End the process when another took the lease over."""
        try:
            # Fails once the taker has deleted our file; until then it is the beat that others see.
            os.utime(self.path)
        except OSError as error:
            if error.errno not in GONE:
                return  # a file server in trouble is no verdict
            print(
                f"stopped: {self.name}: another process took over while this one stood still",
                file=sys.stderr,
                flush=True,
            )
            os._exit(EXIT_INTERRUPTED)

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            self.check()

    def release(self) -> None:
        """Let others have it; the file stays, for its number."""
        self._done.set()
        temp = self.folder / f"{self.path.name}.released"
        with suppress(OSError):
            temp.write_text("null")
            # Replaced at once, so that nobody reads half of it.
            os.replace(temp, self.path)


@contextmanager
def hold(name: str, *, patient: bool = True) -> Iterator[Lease]:
    """Be the one process that works on `name`; waits for another unless `patient` is false."""
    lease = Lease(name)
    lease.take(patient)
    _HELD.append(lease)
    try:
        yield lease
    finally:
        _HELD.remove(lease)
        lease.release()


def check_held() -> None:
    """End the process when it lost a lease; called before writing what others read."""
    for lease in _HELD:
        lease.check()


def _holder(content: bytes) -> dict[str, Any] | None:
    """Who holds it; nobody known while the file is being written, or when it is damaged."""
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if holder is None:
        return None
    if not isinstance(holder, dict) or not set(holder) >= HOLDER:
        return {}
    return holder


def _self() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "start": _started(os.getpid()),
        "place": _place(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "token": secrets.token_hex(8),
    }


def _place() -> str:
    """Where a process number means the same: one boot of one machine, one container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a living process, empty for a dead one: numbers are used again."""
    try:
        # Behind the last bracket: a program's name may hold blanks and brackets itself.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # proc(5): the state is the third field, the start time the 22nd.
    return "" if fields[0] in "ZX" else fields[19]


def _is_over(holder: dict[str, Any] | None) -> bool:
    """Whether the holder released, or is a process of this machine that is dead."""
    return holder is None or (_is_here(holder) and not _lives_here(holder))


def _is_here(holder: dict[str, Any]) -> bool:
    place = _place()
    return place != "" and holder.get("place") == place


def _lives_here(holder: dict[str, Any] | None) -> bool:
    """Whether the holder is a living process of this machine."""
    return bool(holder and _is_here(holder) and _started(holder["pid"]) == holder["start"])


def _describe(seen: Seen | None) -> str:
    if seen is None or not seen.holder:
        return "another process"
    holder = seen.holder
    job = f", SLURM job {holder['job']}" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}"


def _read_clock() -> float:
    """The time by which the file server dates leases, in seconds; ours where we may not write."""
    try:
        with tempfile.TemporaryFile(dir=ROOT) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def list_held() -> dict[str, str]:
    """Names of the leases that are held, and by whom; for people, who need no certainty."""
    held, now = {}, _read_clock()
    for folder in sorted({path.parent for path in ROOT.rglob("*") if path.name.isdecimal()}):
        name = folder.relative_to(ROOT).as_posix()
        with suppress(OSError, UserError):
            seen = Lease(name)._look()
            if seen is None or _is_over(seen.holder):
                continue
            if _lives_here(seen.holder) or now - seen.stamp / 1e9 < STALE:
                held[name] = _describe(seen)
    return held
