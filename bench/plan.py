"""How long it takes to see what there is to do, and until a job begins; 500 jobs: under 3 s.

`python -m bench.plan [seeds] [repeats]`: wall and CPU seconds and memory of the plan alone, of
`snakemake -n` of every table and figure, and of a job up to its work, in a copy of the project
whose tables have that many seeds; the least of some runs.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 3.0  # seconds of `snakemake -n results/table1.csv` with the seeds of the demo
TARGET = "results/table1.csv"
LAY = (
    "from pipeline.plan import frozen, load_plan; plan = load_plan();"
    "copy = frozen.freeze(frozen.fingerprint()); plan.lay(copy);"
    "print(copy, list(plan.graph.runs)[7])"
)


def copy_code(folder: Path) -> None:
    """All of the project that a workflow reads but params.yaml, nothing built."""
    for name in ("pipeline", "profiles", "envs", "data/reported", "data/claims"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)


def project(folder: Path, seeds: int) -> None:
    """A copy of the project, nothing built, with `seeds` seeds of its tables."""
    copy_code(folder)
    from pipeline.plan.params.reader import read

    params = read(ROOT / "params.yaml")
    params["scale"] = "demo"
    for part in (params["tables"]["table1"], params["scales"]["demo"]):
        part["seeds"] = list(range(seeds))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def measure(command: list[str], folder: Path, env: dict[str, str]) -> tuple[float, float, int, str]:
    """Wall and CPU seconds and most MB of one run, and its output."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status and "is missing" not in text:  # a job that finds no data has begun
        sys.exit(text)
    wall = time.monotonic() - started
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024, text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plan")
    parser.add_argument("seeds", nargs="?", type=int, default=3)
    parser.add_argument("repeats", nargs="?", type=int, default=3)
    args = parser.parse_args()
    bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": bins, "OMP_NUM_THREADS": "1"}
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, Snakemake {version('snakemake')}; least of {args.repeats}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder, args.seeds)
        laid = subprocess.run(
            [sys.executable, "-c", LAY],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        copy, run = laid.stdout.split()
        frozen = {**env, "ROBUST_FROZEN": copy, "PYTHONPATH": copy, "PYTHONSAFEPATH": "1"}
        part = f"from pipeline.plan import load_part; load_part('{run}').run('{run}')"
        commands = {
            "python -m pipeline.plan": ([sys.executable, "-m", "pipeline.plan", TARGET], env),
            "snakemake -n table1": (["snakemake", "-n", TARGET], env),
            "snakemake -n, everything": (["snakemake", "-n", "tables", "figures"], env),
            "a job's part of the plan": ([sys.executable, "-c", part], frozen),
            "a job, to its work": ([sys.executable, "-m", "pipeline.train", run], frozen),
        }
        for label, (command, own) in commands.items():
            runs = [measure(command, folder, own) for _ in range(args.repeats)]
            wall, cpu, memory = (min(run[i] for run in runs) for i in range(3))
            total = re.search(r"^total +(\d+)$", runs[0][3], re.MULTILINE)
            jobs = f", {total[1]} jobs" if total else ""
            print(
                f"{label:26s} {wall:6.2f} s wall, {cpu:6.2f} s CPU, {memory:4} MB{jobs}", flush=True
            )
            if label == "snakemake -n table1" and args.seeds == 3 and cpu > LIMIT:
                sys.exit(f"snakemake -n took {cpu:.2f} s of CPU, more than {LIMIT:.0f} s")


if __name__ == "__main__":
    main()
