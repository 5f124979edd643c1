"""A private SLURM on this machine: munged, slurmctld, one slurmd a node, loopback only.

Real daemons from Debian's slurm-wlm and munge, everything below one folder, nothing in /etc.
GPUs are character devices (clones of /dev/null), which is what slurmd wants to see before it
hands them out and sets CUDA_VISIBLE_DEVICES.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

from slurm_settings import REFUSAL, SETTINGS

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
START_SECONDS = 60


def unavailable():
    """Why no private SLURM can run here, or an empty string."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no {missing[0]}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def _path():
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/bin"])


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class Slurm:
    """Start on entry, stop on exit by the recorded processes."""

    def __init__(self, folder, nodes=2, cpus=4, gpus=2):
        self.folder, self.nodes, self.cpus, self.gpus = Path(folder), nodes, cpus, gpus
        self.conf = self.folder / "etc" / "slurm.conf"
        self.processes = []
        self._pending = {}

    @property
    def env(self):
        """What a user's shell on the login node would have."""
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        path = f"{self.folder / 'bin'}{os.pathsep}{_path()}"
        return keep | {"SLURM_CONF": str(self.conf), "PATH": path}

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        for name in ("etc", "ctld", "log", "bin", "gpu", "munge", "sock"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o700)
        (self.folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge" / "key").chmod(0o600)
        self._write_conf()
        self._run("munged", *self._munge_arguments())
        self._wait(self.socket.exists, "munged")
        self.start_controller()
        for node in range(1, self.nodes + 1):
            (self.folder / f"spool-node{node}").mkdir()
            self._run("slurmd", "-D", "-N", f"node{node}", "-f", str(self.conf))
        self._wait(lambda: self.states().count("idle") == self.nodes, "the nodes")

    def start_controller(self):
        """slurmctld, with the state that it left."""
        self._run("slurmctld", "-D", "-f", str(self.conf))
        self.controller = self.processes[-1]

    def kill_controller(self):
        """End slurmctld without a word; jobs go on."""
        self.controller.kill()
        self.controller.wait()
        self.processes.remove(self.controller)

    def refuse(self, command, *words):
        """Let the next calls of sacct or sbatch fail, each with its words."""
        lines = "".join(f"{line}\n" for line in words)
        (self.folder / f"{command}.refused").write_text(lines)

    def refuses(self, command):
        """How many more calls will fail."""
        return len((self.folder / f"{command}.refused").read_text().splitlines())

    @property
    def socket(self):
        return self.folder / "sock" / "munge"

    def _munge_arguments(self):
        munge = self.folder / "munge"
        return (
            "--foreground",
            "--force",  # a temporary folder's parents may be writable by all
            f"--key-file={munge / 'key'}",
            f"--socket={self.socket}",
            f"--pid-file={munge / 'pid'}",
            f"--log-file={munge / 'log'}",
            f"--seed-file={munge / 'seed'}",
        )

    def _write_conf(self):
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + self.nodes)
        lines = SETTINGS.format(
            root=self.folder, host=host, port=ports[0], munge=self.socket
        ).splitlines()
        for number, port in enumerate(ports[1:], start=1):
            lines.append(
                f"NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs={self.cpus} CoresPerSocket={self.cpus} RealMemory=16000 "
                f"Gres=gpu:fake:{self.gpus}"
            )
        # partitions over the same nodes: urgent jobs preempt those of gpu
        lines.append("PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 DefMemPerCPU=100")
        lines.append("PartitionName=urgent Nodes=ALL PriorityTier=9 DefMemPerCPU=100")
        lines.append("PartitionName=short Nodes=ALL MaxTime=2 DefMemPerCPU=100")
        self.conf.write_text("\n".join(lines) + "\n")
        etc = self.folder / "etc"
        (etc / "plugstack.conf").touch()
        (etc / "cgroup.conf").write_text("CgroupAutomount=no\n")
        for number in range(self.gpus):
            os.mknod(self.folder / "gpu" / f"fake{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        devices = f"{self.folder}/gpu/fake[0-{self.gpus - 1}]"
        rows = [
            f"NodeName=node{n} Name=gpu Type=fake Flags=nvidia_gpu_env File={devices}\n"
            for n in range(1, self.nodes + 1)
        ]
        (etc / "gres.conf").write_text("".join(rows))
        # the executor's job step drops SLURM_CONF before it calls srun
        self._wrap("srun", f"export SLURM_CONF={self.conf}")
        for command in ("sacct", "sbatch"):
            self._wrap(command, REFUSAL.format(words=self.folder / f"{command}.refused"))

    def _wrap(self, command, before):
        """Do something before a command, on the path that jobs and master see."""
        path, real = self.folder / "bin" / command, shutil.which(command, path=_path())
        path.write_text(f'#!/bin/sh\n{before}\nexec {real} "$@"\n')
        path.chmod(0o755)

    def _run(self, *command):
        log = self.folder / "log" / f"{command[0]}-{len(self.processes)}.out"
        with log.open("wb") as out:
            program = shutil.which(command[0], path=_path())
            self.processes.append(
                subprocess.Popen(
                    [program, *command[1:]],
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    env=self.env,
                    start_new_session=True,
                )
            )

    def _wait(self, ready, what):
        end = time.monotonic() + START_SECONDS
        while not ready():
            dead = [p for p in self.processes if p.poll() is not None]
            if dead or time.monotonic() > end:
                logs = [p.read_text(errors="replace")[-500:] for p in self.folder.glob("log/*")]
                raise RuntimeError(f"private SLURM: {what} did not start: {' | '.join(logs)}")
            time.sleep(0.1)

    def __exit__(self, *_):
        if self.processes:
            with contextlib.suppress(Exception):
                self.call("scancel", "--me", timeout=10)
                end = time.monotonic() + 15
                while self.jobs() and time.monotonic() < end:
                    time.sleep(0.3)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self):
        """Processes of jobs that escaped their step: without cgroups SLURM loses an orphan."""
        mark = f"SLURM_CONF={self.conf}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                pid = int(path.parent.name)
                if pid != os.getpid() and mark in path.read_bytes().split(b"\0"):
                    yield pid

    # ---- what a test asks

    def call(self, *command, timeout=30):
        """Output of a SLURM command."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        return done.stdout

    def start_requeued(self, after=10):
        """Start jobs that were requeued; SLURM itself holds them for two minutes."""
        for id, *_ in self.jobs("PENDING"):
            shown = self.call("scontrol", "show", "job", id, "--oneliner")
            since = time.time() - self._pending.setdefault(id, time.time())
            if "Reason=BeginTime" in shown and since > after:  # its old processes are gone by then
                self.call("scontrol", "update", f"jobid={id}", "StartTime=now")
                del self._pending[id]

    def states(self):
        """State of every node."""
        return self.call("sinfo", "--noheader", "--Node", "-p", "gpu", "-o", "%t").split()

    def jobs(self, states="all"):
        """(id, state, comment, node) of jobs; by default those not over."""
        wanted = [] if states == "all" else [f"--states={states}"]
        out = self.call("squeue", "--noheader", "-o", "%i|%T|%k|%N", *wanted)
        return [tuple(line.split("|")) for line in out.split("\n") if line]
