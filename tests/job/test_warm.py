"""Jobs handed over to a process that has everything loaded: same bytes, signals, ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from projects import Project, job_params

from pipeline.job import handover

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are watched on Linux alone")

MASTER = """
import os, sys
from pipeline.job import warm
with warm.server(3):
    print(os.environ.get("ROBUST_WARM", "none"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one training of many short epochs."""
    params = job_params(["pgd_at_single"], epochs=40, train_images=64, validate_every=0)
    found = Project(tmp_path_factory.mktemp("warm"), params)
    found.env |= dict.fromkeys(handover.THREADS, "1")  # as Snakemake starts a job
    return found


@pytest.fixture(scope="module")
def run(project):
    ((found,), _) = project.plan()
    return found


@pytest.fixture
def master(project, monkeypatch):
    """What starts the loaded process, and ends it by ending."""
    process = project.start(sys.executable, "-c", MASTER, stdin=subprocess.PIPE)
    monkeypatch.setitem(project.env, handover.VARIABLE, process.stdout.readline().strip())
    yield process
    process.stdin.close()
    process.wait(60)


def server_of(master):
    (child,) = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    return int(child)


def begin(project, run):
    """A training that has ended an epoch: its command, and the process that does it."""
    command = project.start("python", "-m", "pipeline.train", run)
    line = command.stdout.readline()
    assert re.search(r": \d+/40 loss", line), line + command.communicate()[0]
    lease = max((project.folder / "work/leases/runs" / run).iterdir(), key=lambda p: int(p.name))
    return command, json.loads(lease.read_text())["pid"]


def has_torch(process):
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def lives(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition):
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


def read(project, run):
    folder = project.folder / "results/runs" / run
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "run.time.json"}


def test_a_job_is_stopped_killed_and_resumed_through_its_command_to_the_same_bytes(
    project, run, master
):
    command, worker = begin(project, run)
    assert worker != command.pid and not has_torch(command)

    command.send_signal(signal.SIGTERM)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 75 and f"stopped: {run}: saved in epoch" in said

    command, worker = begin(project, run)
    command.kill()
    assert wait_until(lambda: not lives(worker))

    command, worker = begin(project, run)
    os.kill(worker, signal.SIGKILL)
    assert command.wait(60) == -signal.SIGKILL

    command, worker = begin(project, run)
    command.send_signal(signal.SIGTSTP)
    assert wait_until(lambda: "T" in Path(f"/proc/{worker}/stat").read_text().split()[2])
    command.send_signal(signal.SIGCONT)
    command.communicate(timeout=120)
    assert command.returncode == 0
    warm = read(project, run)

    project.remove("results")
    project.env[handover.VARIABLE] = "no"
    project.python("pipeline.train", run, check=True)
    assert read(project, run) == warm


def test_a_command_ends_with_its_server_and_the_next_goes_on_by_itself(project, run, master):
    project.remove("results")
    project.remove("work")
    command, worker = begin(project, run)
    os.kill(server_of(master), signal.SIGKILL)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 1
    assert said.splitlines()[-1] == (
        "error: the process that did this job was killed; run the same again"
    )
    assert wait_until(lambda: not lives(worker))

    command, worker = begin(project, run)
    assert worker == command.pid and has_torch(command)
    command.communicate(timeout=120)
    assert command.returncode == 0


def test_one_of_other_threads_or_another_python_is_not_asked(project, run, master, monkeypatch):
    project.remove("results")
    project.remove("work")
    with monkeypatch.context() as changed:
        changed.setitem(project.env, "MKL_NUM_THREADS", "2")
        command, worker = begin(project, run)
    assert worker == command.pid
    command.kill()
    command.wait()

    for name in (handover.VARIABLE, *handover.THREADS):
        monkeypatch.setenv(name, project.env[name])
    with socket.socket(socket.AF_UNIX) as same:
        same.connect(handover.address())
    monkeypatch.setattr(sys, "executable", "/usr/bin/another")
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(ConnectionRefusedError):
        other.connect(handover.address())


def test_an_error_of_a_user_is_the_commands(project, master):
    done = project.python("pipeline.train", "nobody")
    cold = project.run("env", f"{handover.VARIABLE}=no", "python", "-m", "pipeline.train", "nobody")
    assert done.returncode == cold.returncode == 1
    assert done.stdout == cold.stdout and done.stdout.startswith("error: ")


def test_a_master_that_ends_leaves_its_jobs_to_their_end_and_no_process(project, run, master):
    project.remove("results")
    project.remove("work")
    server = server_of(master)
    command, worker = begin(project, run)
    master.kill()
    command.communicate(timeout=120)
    assert command.returncode == 0 and worker != command.pid
    assert wait_until(lambda: not lives(server))


def test_few_jobs_or_a_users_no_start_none(project, monkeypatch):
    few = MASTER.replace("server(3)", "server(2)")
    assert project.run(sys.executable, "-c", few, timeout=60).stdout == "none\n"
    monkeypatch.setitem(project.env, handover.VARIABLE, "no")
    assert project.run(sys.executable, "-c", MASTER, timeout=60).stdout == "no\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_not_served():
    name = f"\0robust-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        for user in (65534, 0):
            pid = os.fork()
            if pid == 0:
                os.setuid(user)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(name)
                    client.recv(1)
                os._exit(0)
            connection, _ = listener.accept()
            assert handover.is_ours(connection) == (user == 0)
            connection.close()
            os.waitpid(pid, 0)
