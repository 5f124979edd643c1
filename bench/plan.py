"""How long it takes to see what there is to do, at about 500 jobs: under 3 s.

`python -m bench.plan [seeds] [repeats]`: wall and CPU seconds of the plan alone and of
`snakemake -n`, in a copy of the project whose table has that many seeds; the least of some runs.
"""

import argparse
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 3.0  # seconds of `snakemake -n`
TARGET = "results/table1.csv"


def project(folder: Path, seeds: int) -> None:
    """A copy of the project, nothing built, with `seeds` seeds of its table."""
    for name in ("pipeline", "profiles", "envs", "data/reported"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    from pipeline.plan.params.reader import read

    params = read(ROOT / "params.yaml")
    params["scale"] = "demo"
    for part in (params["tables"]["table1"], params["scales"]["demo"]):
        part["seeds"] = list(range(seeds))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def measure(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Wall and CPU seconds of one run, and its output."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plan")
    parser.add_argument("seeds", nargs="?", type=int, default=9)
    parser.add_argument("repeats", nargs="?", type=int, default=5)
    args = parser.parse_args()
    bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PATH"] = bins
    commands = {
        "python -m pipeline.plan": [sys.executable, "-m", "pipeline.plan", TARGET],
        "snakemake -n": ["snakemake", "-n", TARGET],
    }
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, Snakemake {version('snakemake')}; least of {args.repeats}"
    )
    best = 0.0
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), args.seeds)
        for label, command in commands.items():
            runs = [measure(command, Path(name)) for _ in range(args.repeats)]
            best = min(wall for wall, _, _ in runs)
            total = re.search(r"^total +(\d+)$", runs[0][2], re.MULTILINE)
            jobs = f", {total[1]} jobs" if total else ""
            print(f"{label:24s} {best:5.2f} s wall, {min(c for _, c, _ in runs):5.2f} s CPU{jobs}")
    if best > LIMIT:
        sys.exit(f"snakemake -n took {best:.2f} s, more than {LIMIT:.0f} s")


if __name__ == "__main__":
    main()
