"""A whole copy of the repository with a tiny plan, to run Snakemake in and to kill things in."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import yaml
from projects import Plain

from pipeline.plan.params.reader import read

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"epochs": 3, "batch_size": 32, "train_images": 120, "validate_every": 1}


def tiny(rows, members=1, suites=("unified",), device="cpu", **recipe):
    """params.yaml as one table of `rows` on the thinnest net and 120 digits."""
    found = read(ROOT / "params.yaml")
    found["archs"]["tiny"] = {"base": "resnet20", "blocks": 1, "width": 4, "macs": 1000000}
    found["archs"]["tiny"]["runs_per_gpu"] = 1
    stand_ins = copy.deepcopy(found["scales"]["demo"]["stand_ins"])
    attacks = ("train_pgd10", "train_trades10", "train_aute6", "validation_margin_pgd")
    found["scales"]["tiny"] = {
        "threads": 1,
        "device": device,
        "stand_ins": stand_ins,
        "archs": {"resnet20": "tiny"},
        "recipe": {**RECIPE, **recipe},
        "attacks": {a: {"steps": 2} for a in (*attacks, "pgd10", "margin_pgd100", "apgd_ce")},
        "images": 30,
        "seeds": [0],
        "gflops": 10,
    }
    found["scale"] = "tiny"
    found["suites"] = {
        "unified": {"attacks": ["fgsm", "pgd10"]},
        "core": {"attacks": ["apgd_ce", "margin_pgd100"]},
    }
    table = found["tables"]["table1"]
    table |= {"rows": list(rows), "suites": list(suites), "reported": "none", "members": [members]}
    table["columns"] = ["clean", "pgd10"]
    table["reference"] = "none"
    found["tables"], found["figures"] = {"table1": table}, {}
    for stage in ("train", "average", "evaluate"):
        found["resources"][stage] |= {"cpus": 1, "mem_mb": 500, "minutes": 10}
    return found


class Positional(Plain):
    """Writes 0.00001 and not 1e-05, which params.yaml may not hold."""


Positional.add_representer(
    float,
    lambda dumper, value: dumper.represent_scalar(
        "tag:yaml.org,2002:float", f"{Decimal(repr(value)):f}"
    ),
)


class Project:
    """A folder with the code, a plan, and prepared digits."""

    def __init__(self, folder, params, env=None, prepared=True):
        self.folder = Path(folder)
        self.env = {k: v for k, v in (env or os.environ).items() if not k.startswith("ROBUST_")}
        self.env["OMP_NUM_THREADS"] = "1"
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("pipeline", "profiles", "slurm", "envs", "data/reported", "data/claims"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignore)
        shutil.copy(ROOT / "Snakefile", self.folder)
        self.write(params)
        for command in ("download", "prepare") if prepared else ():
            self.python(f"pipeline.{command}", "digits", check=True)

    def write(self, params):
        self.params = copy.deepcopy(params)
        text = yaml.dump(params, Dumper=Positional, sort_keys=False)
        (self.folder / "params.yaml").write_text(text)

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
