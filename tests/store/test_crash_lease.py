"""One process at a time, whatever dies: the lease, with processes of this machine."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import EXIT_INTERRUPTED, UserError
from pipeline.store import lease

pytestmark = pytest.mark.crash
ROOT = Path(__file__).resolve().parents[2]
HEAD = "import os, time; from pathlib import Path; from pipeline.store import lease\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start(code):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code],
        env=env,
        stdout=out,
        stderr=subprocess.STDOUT,
        text=True,
    )


def holding(seconds, more=""):
    """A process that holds the lease `x`, once it does."""
    code = f"with lease.hold('x'):\n    print('held', flush=True); time.sleep({seconds})\n{more}"
    process = start(code)
    assert process.stdout.readline() == "held\n"
    return process


def pretend(holder):
    """A lease file left by a process that this test only describes."""
    folder = Path("work/leases/x")
    folder.mkdir(parents=True)
    (folder / "1").write_text(json.dumps(holder))


FAR = {"host": "far", "pid": 1, "start": "1", "place": "another boot", "job": "7", "token": "t"}


def test_of_many_processes_one_works_at_a_time():
    code = (
        "for _ in range(5):\n"
        "    with lease.hold('x'):\n"
        "        handle = os.open('busy', os.O_CREAT | os.O_EXCL)\n"  # fails when two work
        "        time.sleep(0.02); os.close(handle); os.unlink('busy')\n"
        "        with open('done', 'a') as file: file.write('.')\n"
    )
    processes = [start(code) for _ in range(6)]
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, said
    assert Path("done").read_text() == "." * 30


def test_a_killed_holder_is_followed_at_once():
    process = holding(60)
    process.kill()
    process.wait()
    started = time.monotonic()
    with lease.hold("x"):
        assert time.monotonic() - started < 2


def test_a_holder_that_goes_to_another_folder_keeps_its_lease(monkeypatch):
    """`judge` held a GPU, went to its workplace, and ended itself at the next beat."""
    Path("elsewhere").mkdir()
    with lease.hold("x") as held:
        monkeypatch.chdir("elsewhere")
        held.check()  # ends the process where the file is not found
    monkeypatch.chdir("..")
    assert not Path("elsewhere/work").exists() and lease.list_held() == {}


def test_an_impatient_caller_leaves_with_one_line():
    process = holding(60)
    with pytest.raises(UserError, match=f"x: process {process.pid} on .* works on it; wait for it"):
        lease.Lease("x").take(patient=False)
    process.kill()
    process.wait()


def test_a_patient_caller_waits_for_a_living_holder(capsys):
    process = holding(1.0)
    with lease.hold("x"):
        process.wait(2)  # it released when it was done, not before
    assert f"process {process.pid} on" in capsys.readouterr().out


def test_a_holder_elsewhere_is_gone_when_its_time_stands_still(monkeypatch):
    monkeypatch.setattr(lease, "STALE", 1.0)
    pretend(FAR)
    started = time.monotonic()
    with lease.hold("x", patient=False):
        assert 1.0 <= time.monotonic() - started < 4
        assert not Path("work/leases/x/1").exists()


def test_a_holder_elsewhere_that_beats_is_left_alone(monkeypatch):
    monkeypatch.setattr(lease, "STALE", 2.0)
    pretend(FAR)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.3):
            os.utime("work/leases/x/1")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 1 on far, SLURM job 7 works on it"):
            lease.Lease("x").take(patient=False)
    finally:
        stop.set()
        thread.join()


def test_a_pid_that_was_used_again_is_a_dead_holder():
    pretend(lease._self() | {"start": "1"})  # this very process, started at another time
    with lease.hold("x", patient=False):
        pass


def test_who_slept_through_its_lease_ends_before_it_writes(monkeypatch):
    monkeypatch.setattr(lease, "STALE", 1.0)
    sleeper = holding(3, more="    lease.check_held(); Path('written').touch()\n")
    os.kill(sleeper.pid, signal.SIGSTOP)
    with lease.hold("x"):
        os.kill(sleeper.pid, signal.SIGCONT)
        said = sleeper.communicate(timeout=20)[0]
    assert sleeper.returncode == EXIT_INTERRUPTED
    assert "another process took over while this one stood still" in said
    assert not Path("written").exists()


def test_a_file_that_was_never_finished_is_waited_for_and_then_taken(monkeypatch):
    monkeypatch.setattr(lease, "STALE", 0.5)
    pretend(FAR)
    Path("work/leases/x/1").write_text("")  # killed between creating and writing
    with lease.hold("x"):
        assert Path("work/leases/x/2").exists()


def test_numbers_are_not_used_twice():
    for number in (1, 2, 3):
        with lease.hold("x"):
            assert [p.name for p in Path("work/leases/x").iterdir()] == [str(number)]


def test_a_lease_that_another_user_keeps_to_himself_is_one_line_and_not_taken(monkeypatch):
    pretend(FAR)
    Path("work/leases/x/1").rename("work/leases/x/5")
    whole = Path.open

    def refuse(path, *args, **named):  # as of a file of umask 077; root would read it
        if path.name == "5":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *args, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="leases/x/5: cannot be read, .* umask 002"):
        lease.Lease("x").take(patient=True)
    assert [path.name for path in Path("work/leases/x").iterdir()] == ["5"]
    assert lease.list_held() == {}


def test_who_works_is_listed_whatever_this_machines_clock_says(monkeypatch):
    pretend(FAR)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert lease.list_held() == {"x": "process 1 on far, SLURM job 7"}
    os.utime("work/leases/x/1", (now - 3600, now - 3600))
    assert lease.list_held() == {}
