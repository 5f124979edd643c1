"""What `make record`, `dvc status`, the plan and `snakemake -n` take with many runs in the pools.

`python -m bench.dvc [runs ...]`: 10, 100 and 500 unless told. One run is trained, for one epoch on
32 digits, and attacked; the others are laid beside it under their own names, each with other
weights. Wall and CPU seconds and most MB of one call each, the pools growing from one number to the
next; CPU and MB are of the command and of what it starts.
"""

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.plan import Record, Run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGET = "results/table1.csv"
RECORD = ("pipeline.share.record",)
COMMANDS = (
    RECORD,
    RECORD,
    ("dvc", "status"),
    ("pipeline.plan", TARGET),
    ("snakemake", "-n", TARGET),
)


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
    params["archs"]["tiny"] = {"base": "resnet20", "blocks": 1, "width": 4}
    demo |= {"archs": {"resnet20": "tiny"}, "recipes": {}}
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


def make(count: int) -> None:
    """Files of as many runs, in silence."""
    write_params(count)
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        build()


def build() -> None:
    """Train and attack the first run where it is missing; lay the others."""
    from pipeline import download, evaluate, prepare, tabulate, train
    from pipeline.job import device
    from pipeline.plan import load_plan

    plan = load_plan()
    table = plan.table(TARGET)
    records, runs = plan.needs(table)
    where = device.select("cpu", plan.entries.threads)
    if not runs[0].is_here():
        download.main(["digits"])
        prepare.main(["digits"])
        train.train(plan, runs[0], where, None)
        evaluate.evaluate(plan, records[0], where)

    run_of = {record.victim.elements[0].run: record for record in records}
    for number, run in enumerate(runs):
        if not run.is_here():
            lay_run(runs[0], run, number)
            lay_record(run_of[runs[0].id], run_of[run.id], run)
    tabulate.tabulate(plan, table, False)


def lay_run(made: "Run", run: "Run", number: int) -> None:
    """The files of a run that was trained, under another run's name and with other weights."""
    from safetensors.torch import load_file

    from pipeline.store import checkpoint
    from pipeline.store.sums import write_together

    weights = load_file(made.weights)
    changed = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[changed] = weights[changed] + number
    about = json.loads((made.folder / "run.json").read_bytes()) | {"id": run.id, "spec": run.spec}
    files = {
        run.folder / "history.csv": (made.folder / "history.csv").read_bytes(),
        run.folder / "run.json": json.dumps(about).encode(),
    }
    for path in (run.checkpoint("best"), run.weights):
        files[path] = checkpoint.content(path, weights)
    write_together(files, json.loads((made.folder / "run.time.json").read_bytes()))


def lay_record(made: "Record", record: "Record", run: "Run") -> None:
    """The verdicts of a record that was made, as if of another run's weights."""
    import numpy as np

    from pipeline.store.files import sha256_of
    from pipeline.store.records import meta, pack, read_record
    from pipeline.store.sums import beside, write_together

    arrays = read_record(made.path, ())
    about = meta(arrays) | {"spec": record.spec, "victim": record.victim.id}
    about["weights"] = {run.id: sha256_of(run.weights)}
    arrays["meta"] = np.array(json.dumps(about, sort_keys=True))
    write_together({record.path: pack(arrays)}, json.loads(beside(made.path).read_bytes()))


def measure(*command: str) -> str:
    """Wall and CPU seconds and most MB of one command."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(command)}: {said.read()}")
    wall, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    return f"{wall:.1f} s, {cpu:.1f} s, {used.ru_maxrss // 1024} MB"


def main() -> None:
    counts = [int(a) for a in sys.argv[1:]] or [10, 100, 500]
    bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PATH"] = bins
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, DVC {version('dvc')}, Snakemake {version('snakemake')}"
    )
    print("| runs | make record, new | nothing new | dvc status | plan | snakemake -n |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        project(Path(name))
        os.chdir(name)
        for count in counts:
            # in another process: a child's peak begins with what its parent holds
            maker = multiprocessing.get_context("spawn").Process(target=make, args=(count,))
            maker.start()
            maker.join()
            if maker.exitcode:
                sys.exit("the runs could not be laid")
            figures = [measure(*command) for command in COMMANDS]
            print(f"| {count} | " + " | ".join(figures) + " |", flush=True)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
