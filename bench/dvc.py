"""How long `make record`, `dvc status` and `snakemake -n` take with many runs in the pools.

`python -m bench.dvc [runs ...]`: 10, 100 and 500 unless told. The runs are trained, for one epoch
on 32 digits; wall seconds of one call each, the pools growing from one number to the next.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGET = "results/table1.csv"


def project(folder: Path) -> None:
    """The files of this checkout that git tracks, as a fresh repository with DVC."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def write_params(seeds: int) -> None:
    """One row, `seeds` replicates of it, the least of training and attacks."""
    from pipeline.plan.params.reader import read
    from pipeline.share import writer

    params = read(ROOT / "params.yaml")
    demo, table = params["scales"]["demo"], params["tables"]["table1"]
    demo |= {"images": 20, "tables": {}, "figures": {}, "seeds": list(range(seeds))}
    demo["recipe"] = {"epochs": 1, "batch_size": 32, "validate_every": 0, "train_images": 32}
    demo["attacks"] = {"pgd10": {"steps": 1}}
    table |= {"rows": ["standard"], "members": [1], "suites": ["bench"], "reference": "none"}
    table |= {"columns": ["clean", "pgd10"], "seeds": list(range(seeds)), "reported": "none"}
    table["means"] = {}
    params["suites"]["bench"] = {"attacks": ["pgd10"]}
    params |= {"tables": {"table1": table}, "figures": {}, "scale": "demo"}
    params["scales"] = {"paper": {}, "demo": demo}
    writer.write(Path(), params)


def build() -> None:
    """Train and attack whatever is missing, in this process."""
    from pipeline import download, evaluate, prepare, tabulate, train
    from pipeline.job import device
    from pipeline.plan import load_plan

    plan = load_plan()
    table = plan.table(TARGET)
    records, runs = plan.needs(table)
    where = device.select("cpu", plan.entries.threads)
    download.main(["digits"])
    prepare.main(["digits"])
    for run in runs:
        if not (run.folder / "weights.safetensors").exists():
            train.train(plan, run, where, None)
    for record in records:
        if not record.path.exists():
            evaluate.evaluate(plan, record, where)
    tabulate.tabulate(plan, table, False)


def seconds(*command: str) -> float:
    """Wall time of one command."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return time.monotonic() - started


def main() -> None:
    counts = [int(a) for a in sys.argv[1:]] or [10, 100, 500]
    bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PATH"] = bins
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, DVC {version('dvc')}, Snakemake {version('snakemake')}"
    )
    print("| runs | make record, new | record, nothing new | dvc status | snakemake -n |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        project(Path(name))
        os.chdir(name)
        for count in counts:
            write_params(count)
            with open(os.devnull, "w") as null:
                out, sys.stdout = sys.stdout, null
                try:
                    build()
                finally:
                    sys.stdout = out
            times = [seconds("pipeline.share.record"), seconds("pipeline.share.record")]
            times += [seconds("dvc", "status"), seconds("snakemake", "-n", TARGET)]
            print(f"| {count} | " + " | ".join(f"{t:.1f} s" for t in times) + " |", flush=True)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
