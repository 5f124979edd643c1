"""A job's command hands itself over to a process that has everything loaded (warm.py).

Begun as ever with `python -m pipeline.train RUN`, it asks before it loads anything: its arguments,
folder, environment and open files go to the server of its workflow, whose fork does the work. The
command passes signals on, ends as the fork ends, and takes the fork along when it is killed. Where
no server answers it goes on by itself, to the same bytes.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

VARIABLE = "ROBUST_WARM"  # names the server, in the environment of jobs
THREADS = [  # what Snakemake sets for a job, and libraries read as they load
    f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")
]
THREADS += ["VECLIB_MAXIMUM_THREADS"]
STATUS = struct.Struct("i")  # of waitpid
LENGTH = struct.Struct("I")
PEER = struct.Struct("3i")  # process, user, group
TAKEN = b"+"
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def address() -> str:
    """Where a server of this Python with these threads listens: no file, gone with its process."""
    alike = [os.environ[VARIABLE], sys.executable, *(os.environ.get(n, "") for n in THREADS)]
    return "\0robust-" + hashlib.sha256("\0".join(alike).encode()).hexdigest()[:32]


def is_ours(connection: socket.socket) -> bool:
    """Whether the process at the other end is of this user."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    user: int = PEER.unpack(peer)[1]
    return user == os.getuid()


def hand_over() -> None:
    """Have a server do this command, and end the process as it did; return where none takes it."""
    is_job = sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].count(".") == 1
    if sys.platform != "linux" or not is_job:
        return
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address())
            if not is_ours(server) or not _ask(server):
                return
        except OSError:
            return

        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: _tell(server, number))
        signal.signal(signal.SIGTSTP, lambda *_: _pause(server))
        answer = server.recv(STATUS.size, socket.MSG_WAITALL)

    if len(answer) < STATUS.size:
        os.write(2, b"error: the process that did this job was killed; run the same again\n")
        os._exit(1)
    _end(os.waitstatus_to_exitcode(STATUS.unpack(answer)[0]))


def _ask(server: socket.socket) -> bool:
    """Whether it has begun with this command."""
    order = {
        "module": sys.orig_argv[2],
        "arguments": sys.orig_argv[3:],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    message = json.dumps(order).encode()
    socket.send_fds(server, [LENGTH.pack(len(message))], [0, 1, 2])
    server.sendall(message)
    return server.recv(len(TAKEN)) == TAKEN


def _tell(server: socket.socket, number: int) -> None:
    with suppress(OSError):  # it has ended just now
        server.send(bytes([number]))


def _pause(server: socket.socket) -> None:
    """Ctrl-Z stops what computes, and not only who waits for it."""
    _tell(server, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    _tell(server, signal.SIGCONT)


def _end(code: int) -> None:
    """End as the fork ended, by its signal where it was one."""
    if code < 0:
        with suppress(OSError):  # some cannot be set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
