"""Throwaway copies of the project with a small table, and Snakemake's answers about them."""

import compileall
import copy
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.plan.params.reader import read
from pipeline.plan.params.schema import MEMO, component
from pipeline.share import writer

ROOT = Path(__file__).resolve().parents[2]
TARGET = "results/table1.csv"
RECIPE = {"epochs": 3, "batch_size": 32, "train_images": 120, "validate_every": 1}
TRAINING_ATTACKS = ("train_pgd10", "train_trades10", "train_aute6", "validation_margin_pgd")


@functools.cache
def _published() -> dict[str, Any]:
    return read(ROOT / "params.yaml")


def published() -> dict[str, Any]:
    """params.yaml with the papers' pages, as they are in the repository, but for its scale, which
    is this user's: demo."""
    return copy.deepcopy(_published()) | {"scale": "demo"}


def shrink(params: dict[str, Any], images: int = 30, **recipe: Any) -> None:
    """Cut the demo to the thinnest net, 120 training images, few steps, and no table's own cut."""
    params["archs"]["tiny"] = {"base": "resnet20", "blocks": 1, "width": 4}
    demo = params["scales"]["demo"]
    demo |= {"archs": {"resnet20": "tiny"}, "images": images, "recipe": {**RECIPE, **recipe}}
    demo |= {"attacks": {name: {"steps": 2} for name in TRAINING_ATTACKS}}
    demo |= {"recipes": {}, "tables": {}, "figures": {}}
    for scale in ("short", "lunch"):
        params["scales"][scale]["tables"] = {}
    params |= {"scale": "demo", "figures": {}}


def small(rows: Any = ("standard",), images: int = 30, **recipe: Any) -> dict[str, Any]:
    """params.yaml so cut, with one table of these rows and one suite of two attacks."""
    params = published()
    shrink(params, images, **recipe)
    params["suites"] = {"unified": {"attacks": ["fgsm", "pgd10"]}}
    table = params["tables"]["table1"]
    table |= {"rows": list(rows), "suites": ["unified"], "reported": "none"}
    table["columns"] = ["clean", "pgd10"]
    params["tables"] = {"table1": table}
    return params


def tiny_params() -> dict[str, Any]:
    """Two rows, two epochs, 64 training and 20 test images, one attack of one step."""
    params = small(["trades", "wa"], 20, epochs=2, train_images=64, validate_every=0)
    params["suites"] = {"unified": {"attacks": ["fgsm"]}}
    cells = {"members": [1], "reference": "trades", "columns": ["clean", "fgsm"]}
    params["tables"]["table1"] |= cells
    return params


def job_params(
    rows: Any, members: int = 1, suites: Any = ("unified",), device: str = "cpu", **recipe: Any
) -> dict[str, Any]:
    """One table whose jobs are killed: two attacks that begin anew, small demands of a cluster."""
    params = small(rows, **recipe)
    params["archs"]["tiny"] |= {"macs": 1000000, "runs_per_gpu": 1}
    demo = params["scales"]["demo"]
    demo |= {"threads": 1, "device": device, "seeds": [0], "gflops": 10}
    demo["attacks"] |= {name: {"steps": 2} for name in ("pgd10", "margin_pgd100", "apgd_ce")}
    params["suites"]["core"] = {"attacks": ["apgd_ce", "margin_pgd100"]}
    cells = {"members": [members], "suites": list(suites), "reference": "none"}
    params["tables"]["table1"] |= cells
    for stage in ("train", "average", "evaluate"):
        params["resources"][stage] |= {"cpus": 1, "mem_mb": 500, "minutes": 10}
    params["resources"]["train"]["save_minutes"] = 0  # what is killed goes on from its last epoch
    return params


def copy_project(folder: Path, params: dict[str, Any]) -> Path:
    """The code and these values in a folder, nothing built."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("pipeline", "profiles", "slurm", "pbs", "envs", "data/reported", "data/claims"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copy(ROOT / "data/cuts.csv", folder / "data")
    writer.write(folder, params)
    warm(folder)
    return folder


def warm(folder: Path) -> None:
    """Hand a copy of the code what Python and the plan have kept of the same: each start of a
    command there would compile and parse it anew."""
    _compile()
    for cache in (ROOT / "pipeline").rglob("__pycache__"):
        shutil.copytree(cache, folder / cache.relative_to(ROOT), dirs_exist_ok=True)
    for source in (ROOT / "pipeline").rglob("*.py"):
        copied = folder / source.relative_to(ROOT)
        if copied.is_file() and copied.read_bytes() == source.read_bytes():
            shutil.copystat(source, copied)
    if (ROOT / MEMO).is_file():
        (folder / MEMO).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / MEMO, folder / MEMO)


@functools.cache
def _compile() -> None:
    compileall.compile_dir(ROOT / "pipeline", quiet=2)
    component("methods", "standard")  # which remembers all of them


def edit(folder: Path, old: str, new: str, name: str = "params.yaml") -> None:
    """Replace a text that stands exactly once in a file."""
    path = folder / name
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
    path.write_text(text.replace(old, new))


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command run in a project, without a GPU; both outputs in one text."""
    bins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    changed = {"PATH": bins, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **changed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, target: str = TARGET) -> str:
    """Let Snakemake make a target; what it said."""
    done = command(folder, "snakemake", "-c1", target)
    assert done.returncode == 0, done.stdout + logs(folder)
    return done.stdout


def logs(folder: Path) -> str:
    """The last line of every log."""
    texts = {path: path.read_text().strip() for path in sorted(folder.glob("logs/**/*.log"))}
    return "".join(f"{path}: {text.splitlines()[-1:]}\n" for path, text in texts.items())


def jobs(folder: Path, *words: str) -> dict[str, int]:
    """Number of jobs that a dry run would start, by rule; empty when there is nothing to do."""
    done = command(folder, "snakemake", "-n", *(words or (TARGET,)))
    assert done.returncode == 0, done.stdout
    if "Nothing to be done" in done.stdout:
        return {}
    table = done.stdout.rpartition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


class Project:
    """A folder with the code, a plan, and prepared digits."""

    def __init__(self, folder, params, env=None, prepared=True):
        self.folder = Path(folder)
        self.env = {k: v for k, v in (env or os.environ).items() if not k.startswith("ROBUST_")}
        self.env["OMP_NUM_THREADS"] = "1"
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        copy_project(self.folder, params)
        for command in ("download", "prepare") if prepared else ():
            self.python(f"pipeline.{command}", "digits", check=True)

    def remove(self, folder):
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def start(self, *command, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, **options)

    def run(self, *command, timeout=240, check=False):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}")
        return done

    def python(self, module, *arguments, **options):
        return self.run(sys.executable, "-m", module, *arguments, **options)

    def snakemake(self, *arguments, **options):
        return self.run("snakemake", "-c2", "results/table1.csv", *arguments, **options)

    def plan(self):
        """Ids of runs and records, as the project's own code names them."""
        code = (
            "import json; from pipeline.plan import load_plan; p = load_plan();"
            "print(json.dumps([list(p.graph.runs), list(p.graph.records)]))"
        )
        runs, records = json.loads(self.run(sys.executable, "-c", code, check=True).stdout)
        return runs, records

    def results(self):
        """Hash of every result by path; times and logs are no results."""
        files = [p for p in (self.folder / "results").rglob("*") if p.is_file()]
        return {
            p.relative_to(self.folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(files)
            if not p.name.endswith(".time.json") and p.name != ".gitkeep"
        }
