"""Jobs on a workstation with several GPUs, which here are names."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from projects import ROOT

from pipeline.job import device


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Two GPUs, and the devices that processes chose; a process is a stack of leases here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    properties = lambda index: SimpleNamespace(uuid=f"uuid{index}")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    return chosen


def start(monkeypatch):
    """A new process chooses its device; ending it frees the device."""
    process = ExitStack()
    monkeypatch.setattr(device, "_GPU", process)
    monkeypatch.setenv(device.GPU, "")
    monkeypatch.delenv(device.GPU)
    return process, device.select("auto", 1)


def test_every_process_has_a_gpu_of_its_own_and_the_third_of_two_waits(gpus, monkeypatch, capsys):
    first, on_first = start(monkeypatch)
    second, on_second = start(monkeypatch)
    assert [on_first, on_second] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            second.close()

    monkeypatch.setattr(device.time, "sleep", sleep)
    third, on_third = start(monkeypatch)
    assert on_third == torch.device("cuda", 1) and len(slept) == 3 and gpus == [0, 1, 1]
    assert capsys.readouterr().out.count("other jobs compute on all 2; waiting") == 1
    first.close()
    third.close()


def test_what_a_process_starts_computes_beside_it(gpus, monkeypatch):
    process, own = start(monkeypatch)
    assert device.select("auto", 1) == own == torch.device("cuda", 0)
    process.close()


def test_jobs_inside_an_allocation_of_several_gpus_have_one_each(gpus, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    processes, devices = zip(*(start(monkeypatch) for _ in range(2)), strict=True)
    assert devices == (torch.device("cuda", 0), torch.device("cuda", 1))
    for process in processes:
        process.close()


def test_slurm_hands_out_gpus_itself(gpus, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [start(monkeypatch)[1] for _ in range(3)] == [torch.device("cuda")] * 3


def test_cpus_are_not_leased(gpus, tmp_path):
    assert device.select("cpu", 1) == torch.device("cpu") and not (tmp_path / "work").exists()


def test_the_lease_ends_while_the_process_still_can_end_it(tmp_path: Path) -> None:
    """On Python 3.12 a generator that ends with the interpreter finds no module left: the lease
    was not released and a trace was printed."""
    code = """
import atexit
from pathlib import Path
atexit.register(lambda: print([p.read_text() for p in Path().rglob("gpus/*/*") if p.is_file()]))
from pipeline.job import device
from pipeline.store.lease import hold
device._GPU.enter_context(hold("gpus/one", patient=False))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "['null']\n" and not done.stderr
