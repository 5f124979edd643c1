"""envs/conda.yaml holds the pins of `make setup`, written out: Snakemake copies it alone."""

import re

import yaml
from projects import ROOT

ENVS = ROOT / "envs"


def pins(name):
    """What a file of requirements asks for, with the files that it names."""
    lines = [line.partition("#")[0].strip() for line in (ENVS / name).read_text().splitlines()]
    inner = [p for line in lines if line.startswith("-r ") for p in pins(line.removeprefix("-r "))]
    return [line for line in lines if line and not line.startswith("-r ")] + inner


def test_its_packages_are_those_of_setup():
    *_, by_pip = yaml.safe_load((ENVS / "conda.yaml").read_text())["dependencies"]
    assert by_pip["pip"] == pins("cpu.txt")


def test_what_comes_without_dependencies_is_that_of_setup():
    script = (ENVS / "conda.post-deploy.sh").read_text()
    assert re.findall(r"\S+==\S+", script) == pins("nodeps.txt")
    assert "pip install --no-deps " in script
