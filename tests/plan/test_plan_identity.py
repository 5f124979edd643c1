"""One identity on every Python, from the standard library alone, and loaded in no time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, published

from pipeline.plan import Plan

VERSIONS = ("3.11", "3.12", "3.13")
ASK = f"""
import json, sys
from pathlib import Path
root = Path({str(ROOT)!r})
sys.path.insert(0, str(root))
from pipeline.plan import Plan
from pipeline.plan.params import schema
from pipeline.plan.params.code import code_of
plan = Plan(json.loads(sys.stdin.read()))
files = sorted([*root.glob("pipeline/**/*.py"), *root.glob("tests/plan/*.py")])
codes = {{f.name: code_of(f) for f in files}}
codes |= {{f"{{k}}/{{n}}": schema.component(k, n).code
           for k in schema.KINDS for n in schema.available(k)}}
ids = [*plan.graph.runs, *plan.graph.records, *(t.digest for t in plan.tables.values())]
bare = not {{"yaml", "torch", "numpy"}} & set(sys.modules)
print(json.dumps([bare, codes, ids]))
"""


def interpreter(version):
    """An interpreter of this version, or None."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(found[-1]) if found else shutil.which(f"python{version}")


def answer(python):
    """Codes and ids as this interpreter sees them with its standard library alone."""
    done = subprocess.run(
        [python, "-I", "-S", "-c", ASK],
        input=json.dumps(published()),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    bare, codes, ids = json.loads(done.stdout)
    assert bare
    return codes, ids


@pytest.fixture(scope="module")
def here():
    return answer(sys.executable)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_python_gives_the_same_names(version, here):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    codes, ids = answer(python)
    assert codes == here[0]
    assert ids == here[1]


def test_the_names_are_those_of_the_loaded_file(here):
    plan = Plan(published())
    assert set(plan.graph.runs) <= set(here[1])


def test_the_plan_loads_neither_torch_nor_numpy():
    code = (
        "import sys, pipeline.plan.workflow, pipeline.plan.params.reader, pipeline.plan.__main__\n"
    )
    code += "print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
