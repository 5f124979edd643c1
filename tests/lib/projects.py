"""Throwaway copies of the project with a tiny table, and Snakemake's answers about them."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.plan.params.reader import read

ROOT = Path(__file__).resolve().parents[2]
TARGET = "results/table1.csv"
TINY = {  # the keys of the demo that a tiny project shrinks further
    "archs": {"resnet20": "tiny"},
    "recipe": {"epochs": 2, "batch_size": 32, "train_images": 64, "validate_every": 0},
    "attacks": {"train_pgd10": {"steps": 1}, "train_trades10": {"steps": 1}},
    "images": 20,
    "tables": {},
    "recipes": {},
    "figures": {},
}


class Plain(yaml.SafeDumper):
    """Writes equal lists twice instead of an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def published() -> dict[str, Any]:
    """params.yaml with the papers' pages, as they are in the repository."""
    return read(ROOT / "params.yaml")


def tiny_params() -> dict[str, Any]:
    """Two rows, two epochs, 64 training and 20 test images, one attack of one step."""
    found = copy.deepcopy(published())
    found["archs"]["tiny"] = {"base": "resnet20", "blocks": 1, "width": 4}
    found["scale"] = "demo"
    found["scales"]["demo"] |= TINY
    found["scales"]["short"]["tables"] = {}
    found["suites"] = {"unified": {"attacks": ["fgsm"]}}
    table = found["tables"]["table1"]
    found["tables"], found["figures"] = {"table1": table}, {}
    table |= {"members": [1], "rows": ["trades", "wa"], "suites": ["unified"]}
    table |= {"columns": ["clean", "fgsm"], "reference": "trades", "reported": "none"}
    return found


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """params.yaml of a project."""
    text = yaml.dump(params, Dumper=Plain, sort_keys=False)
    (folder / "params.yaml").write_text(text)


def copy_project(folder: Path, params: dict[str, Any]) -> Path:
    """The code and these values in a folder, nothing built."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("pipeline", "profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("reported", "claims"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    shutil.copy(ROOT / "Snakefile", folder)
    write_params(folder, params)
    return folder


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
