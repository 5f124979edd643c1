"""The device, its threads, and arithmetic that repeats."""

import atexit
import os
import platform
import time
from contextlib import ExitStack, suppress

import torch

from pipeline.errors import UserError
from pipeline.store.lease import Taken, hold

MACHINE = ("device", "cpu", "torch")  # of `describe`, on which bytes repeat
GPU = "ROBUST_GPU"  # number of the device that a process's children share
_GPU = ExitStack()  # ends with the process, while its modules are still there
atexit.register(_GPU.close)


def select(name: str, threads: int) -> torch.device:
    """The device called cpu, cuda or auto, with deterministic fp32 arithmetic.

    Where SLURM gave it no single one, each process has a GPU of its own, and waits until one is
    free. Raises UserError when cuda is asked for and there is none. TF32 stays off: fp32 means
    fp32; speed on a GPU is the recipe's `precision: bf16`.
    """
    found = find(name)
    torch.set_num_threads(threads)
    # cuBLAS repeats its sums only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False

    # SLURM hands a job its GPU; whoever runs a workflow inside an allocation of several does not.
    is_given = "SLURM_JOB_ID" in os.environ and torch.cuda.device_count() == 1
    if found.type == "cuda" and not is_given:
        if GPU not in os.environ:
            os.environ[GPU] = str(_lease_gpu())
        torch.cuda.set_device(int(os.environ[GPU]))
        return torch.device("cuda", int(os.environ[GPU]))
    return found


def find(name: str) -> torch.device:
    """The device called cpu, cuda or auto; raises UserError when cuda is asked for and there is
    none."""
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UserError(
            "params.yaml: scale's device is cuda but torch sees no GPU; "
            "set `device: auto` or run on a GPU node"
        )
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def _lease_gpu() -> int:
    """A GPU of this machine that no other job of this folder computes on, until the process ends.

    By its own number, since CUDA_VISIBLE_DEVICES may call it 0 for several processes.
    """
    count, has_told = torch.cuda.device_count(), False
    ids = [torch.cuda.get_device_properties(index).uuid for index in range(count)]

    while True:
        for index, id in enumerate(ids):
            with suppress(Taken):
                _GPU.enter_context(hold(f"gpus/{platform.node()}-{id}", patient=False))
                return index
        if not has_told:
            print(f"GPUs: other jobs compute on all {count}; waiting", flush=True)
            has_told = True
        time.sleep(1)


def describe(device: torch.device) -> dict[str, str]:
    """Host class and versions, for the files that hold times and never for identity."""
    chip = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {chip}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),  # a class of its own, which no state may hold
        "python": platform.python_version(),
        "host": platform.node(),
    }


def times(seconds: float, device: torch.device) -> dict[str, object]:
    """What making an artifact took, and where: written beside it."""
    return {"seconds": round(seconds, 1), **describe(device)}
