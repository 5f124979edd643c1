"""A process that has loaded what jobs load, and forks for each: `python -m pipeline.job.warm`.

Three of the four seconds in which a job of this project starts are imports. The master of a
workflow whose jobs run on this machine starts one such process; it ends when the master and the
last job have. See handover.py for what a job's command sees of it.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import secrets
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.job import handover

FEWEST = 3  # jobs for which loading once is worth a process
PATIENCE = 10  # seconds for a command to say what it wants
PR_SET_PDEATHSIG = 1  # prctl(2)
OFF = "no"  # a user's value of the variable

Order = dict[str, Any]


@contextmanager
def server(jobs: int) -> Iterator[None]:
    """One for so many jobs, named in the environment that they inherit."""
    wanted = os.environ.get(handover.VARIABLE) != OFF
    if sys.platform != "linux" or jobs < FEWEST or not wanted:
        yield
        return

    os.environ[handover.VARIABLE] = secrets.token_hex(8)
    try:
        process = subprocess.Popen(
            ["python", "-m", "pipeline.job.warm"],  # the Python that jobs find
            env=os.environ | dict.fromkeys(handover.THREADS, "1"),
            stdin=subprocess.PIPE,  # its end is the master's
            stdout=subprocess.PIPE,  # a pipe, so that Python seeks in none of what it becomes
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the commands, which pass it on
        )
    except OSError:  # no Python, no memory: the first job says it better
        yield
        return

    assert process.stdout is not None
    process.stdout.read()  # until it listens, or cannot
    try:
        yield
    finally:
        del os.environ[handover.VARIABLE]
        with suppress(subprocess.TimeoutExpired):  # jobs of a master that was told to stop
            process.communicate(timeout=5)


def preload() -> None:
    """Import what jobs import. Their own modules are run anew by each, as `python -m` does."""
    from pipeline.__main__ import JOBS

    names = [f"pipeline.{job}" for job in JOBS]
    for name in names:
        importlib.import_module(name)
    for name in names:
        del sys.modules[name]
    gc.freeze()  # what is here stays: no fork looks through it, or copies it by looking


def end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os._exit(1)


def take(files: list[int]) -> None:
    """Make a command's open files this process's own input, output and errors."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)


class Server:
    """Forks a process for every command that connects, and watches both."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.jobs: dict[int, tuple[int, socket.socket]] = {}  # by the process's descriptor

    def serve(self) -> Order | None:
        """Until stdin closes and no job is left; in a fork, what it is to do."""
        self.selector.register(0, selectors.EVENT_READ, self.retire)
        self.selector.register(self.listener, selectors.EVENT_READ, self.begin)
        while self.selector.get_map():
            for key, _ in self.selector.select():
                # Not what another event of this round has ended
                is_watched = self.selector.get_map().get(key.fd) is key
                order: Order | None = key.data() if is_watched else None
                if order:
                    return order
        return None

    def retire(self) -> None:
        """The master is gone: take no more."""
        self.selector.unregister(0)
        self.selector.unregister(self.listener)
        self.listener.close()

    def begin(self) -> Order | None:
        """Fork for a command; returns in the fork what it asks for."""
        connection, _ = self.listener.accept()
        files: list[int] = []
        try:
            if not handover.is_ours(connection):
                raise PermissionError
            order = self.receive(connection, files)
            parent, pid = os.getpid(), os.fork()
        except (OSError, ValueError):  # the command goes on by itself
            connection.close()
            for file in files:
                os.close(file)
            return None

        if pid == 0:
            connection.close()
            self.let_go()
            end_with(parent)
            take(files)
            return order
        for file in files:
            os.close(file)

        watched = os.pidfd_open(pid)
        self.selector.register(watched, selectors.EVENT_READ, lambda: self.finish(watched))
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.hear(watched))
        self.jobs[watched] = pid, connection
        with suppress(OSError):  # killed meanwhile: `hear` will see it
            connection.send(handover.TAKEN)
        return None

    def receive(self, connection: socket.socket, files: list[int]) -> Order:
        """What a command wants; `files` gets its three that are open."""
        connection.settimeout(PATIENCE)
        head, received, _, _ = socket.recv_fds(connection, handover.LENGTH.size, 3)
        files += received
        if len(head) < handover.LENGTH.size or len(files) < 3:
            raise ConnectionError
        (length,) = handover.LENGTH.unpack(head)
        with connection.makefile("rb") as rest:
            order: Order = json.loads(rest.read(length))
        return order

    def let_go(self) -> None:
        """In a fork: close what is the server's, so that a command hears of the server's end."""
        self.listener.close()
        self.selector.close()
        for watched, (_, connection) in self.jobs.items():
            connection.close()
            os.close(watched)

    def hear(self, watched: int) -> None:
        """A signal for a job, or the end of its command, which takes the job along."""
        _, connection = self.jobs[watched]
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            signal.pidfd_send_signal(watched, number)
        if not numbers:
            self.selector.unregister(connection)

    def finish(self, watched: int) -> None:
        """A job has ended: tell its command how."""
        pid, connection = self.jobs.pop(watched)
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):
            connection.send(handover.STATUS.pack(status))
        with suppress(KeyError):
            self.selector.unregister(connection)
        self.selector.unregister(watched)
        connection.close()
        os.close(watched)


def main() -> None:
    """Command line."""
    os.close(os.pidfd_open(os.getpid()))  # an old kernel has none: then every job starts by itself
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(handover.address())
    listener.listen(128)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)  # which tells the master that a first job may come
    preload()

    order = Server(listener).serve()
    if order is None:
        os._exit(0)

    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["module"], *order["arguments"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
