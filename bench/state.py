"""Memory that saving and loading a resume state take: `python -m bench.state [MB]`.

Each in a process of its own: the peak of resident memory beyond what the state itself, or nothing,
had taken before, in state sizes; and seconds of wall time.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.store import checkpoint

MB = 600
TENSORS = 30  # of equal size


def make_state(megabytes: int) -> dict[str, object]:
    """A state of today's keys, all of it weights of one network and their momenta."""
    size = megabytes * 2**20 // 4 // TENSORS
    tensors = {f"{i}.weight": torch.full((size,), float(i)) for i in range(TENSORS)}
    nothing = {"ema": None, "best": None, "snapshots": None, "memories": {}, "origin": {}}
    counts = {"epoch": 1, "done": 0, "flops": 0, "seconds": 0.0, "loss": [0.0, 0]}
    lists = {"networks": [tensors], "optimisers": [], "history": []}
    return {"digest": "x", **nothing, **counts, **lists}


def peak() -> float:
    """Of this process's resident memory, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(what: str, path: Path, megabytes: int) -> str:
    """Save or load, and say what that took."""
    state = make_state(megabytes) if what == "save" else {}
    before, started = peak(), time.monotonic()
    if what == "save":
        checkpoint.save_state(path, state)
    elif checkpoint.load_state(path, "x") is None:
        raise SystemExit("error: the state does not load")
    seconds = time.monotonic() - started
    return f"{what} {(peak() - before) / megabytes:.2f} {seconds:.1f}"


def main() -> None:
    """Command line."""
    if len(sys.argv) == 4:
        print(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
        return
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else MB
    with tempfile.TemporaryDirectory() as folder:
        for what in ("save", "load"):
            words = [what, str(Path(folder) / "state.pt"), str(megabytes)]
            subprocess.run([sys.executable, "-m", "bench.state", *words], check=True)


if __name__ == "__main__":
    main()
