"""Every command that README and docs/ print is one that its program takes, word by word."""

import re
import shlex
import shutil
import subprocess
from functools import cache

import pytest
from projects import ROOT

from pipeline.__main__ import find_commands
from pipeline.plan import load_plan

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PROGRAMS = ("python -m pipeline", "make ", "snakemake ", "dvc ")
# words that stand for others, in capitals or as an ellipsis
PLACE = re.compile(r"[A-Z][A-Z_]*|\.\.\.")
# what the FAQ quotes because its program refuses it
REFUSED = ("snakemake -q rules results/table1.csv",)
MADE = re.compile(r"results/[\w/]+\.(?:csv|png)")


def commands(page):
    """Lines of blocks and whole spans of code that begin with a program's name."""
    text = page.read_text()
    # Of every language, so that a closing fence opens none; lines of Python begin with no program.
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [c.strip() for c in (*lines, *spans) if c.strip().startswith(PROGRAMS)]


def split(command):
    """Its words, without comments and without what follows in a pipe or another command."""
    words = shlex.split(command, comments=True)
    ends = [i for i, word in enumerate(words) if word in ("|", "&&", ">", ";")]
    return words[: min(ends, default=len(words))]


@cache
def targets_of_make():
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def sources():
    """The file of each command of `python -m pipeline`."""
    return {name: path for group in find_commands().values() for name, path in group.items()}


@cache
def made():
    """Tables, figures and pages of all scales, as their rules name them."""
    plan = load_plan(ROOT / "params.yaml")
    texts = ("claims.md", "audit.csv", "audit.png", "reproduced.csv")
    return {str(p) for t in plan.targets.values() for p in t.outputs} | {
        f"results/{name}" for name in texts
    }


def wrong_with(command):
    """Why its program would refuse the command; empty where it would not."""
    program, *words = split(command)
    if program == "make":
        asked = [w for w in words if "=" not in w and not PLACE.fullmatch(w)]
        return "".join(f"no target {w}" for w in asked if w not in targets_of_make())
    if program == "snakemake":
        return refusal_of_snakemake(words)
    if program == "dvc":
        return refusal_of_dvc(words)
    return refusal_of_pipeline(words[1:])


def refusal_of_pipeline(words):
    name = words.pop(0).removeprefix("pipeline").removeprefix(".") or (words or ["..."]).pop(0)
    if PLACE.fullmatch(name) or name.startswith("<"):
        return ""
    if name not in sources():
        return f"no command {name}"
    text = sources()[name].read_text()
    flags = [w.partition("=")[0] for w in words if w.startswith("--")]
    return "".join(f"{name} has no {flag}" for flag in flags if f'"{flag}"' not in text)


def refusal_of_snakemake(words):
    from snakemake.cli import get_argument_parser

    parser = get_argument_parser([])
    try:
        args, _ = parser.parse_known_args(words)
    except SystemExit:
        return "refused by its own reader"
    known = {option for action in parser._actions for option in action.option_strings}
    unknown = [w for w in words if w.startswith("--") and w.partition("=")[0] not in known]
    asked = [t for t in args.targets or () if MADE.fullmatch(t)]
    lost = [t for t in asked if t not in made() and not is_entry(t)]
    return "".join(f"{word} is nothing that it knows" for word in (*unknown, *lost))


@cache
def examples():
    """What pages write into yaml blocks."""
    blocks = [b for page in PAGES for b in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)]
    return "".join(blocks)


def is_entry(target):
    """Whether a target is a table or figure that a page adds."""
    name = target.removeprefix("results/").rpartition(".")[0]
    return re.search(rf"^  {name}:", examples(), re.MULTILINE) is not None


def refusal_of_dvc(words):
    from dvc.cli import parse_args
    from dvc.cli.parser import DvcParserError

    if len(words) == 1:  # `dvc add`, spoken of
        words = [*words, "--help"]
    try:
        parse_args(words)
    except SystemExit as end:
        return "" if end.code == 0 else "refused by its own reader"
    except DvcParserError:
        return "refused by its own reader"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_taken_by_its_program(page):
    told = {c: wrong_with(c) for c in commands(page) if c not in REFUSED}
    assert {command: wrong for command, wrong in told.items() if wrong} == {}


def test_a_block_behind_one_of_another_language_is_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```\nmake table1\n```\n")
    assert commands(page) == ["make table1"]


@pytest.mark.parametrize(
    "command",
    [
        "make tabel1",
        "python -m pipeline stauts",
        "python -m pipeline.plan results/table1.csv --rwo aute",
        *REFUSED,
        "snakemake --dag results/table1.csv",
        "snakemake -c4 results/tabel1.csv",
        "dvc metrics shwo",
    ],
)
def test_a_command_that_its_program_refuses_is_found(command):
    assert wrong_with(command)


def test_targets_of_make_are_no_files():
    """A file or folder of such a name would leave its recipe out: `bench` is one."""
    (phony,) = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets_of_make() <= set(phony.split())


def test_make_bench_ends_at_the_first_script_that_fails(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$2" >> asked\ntest "$2" != bench.plan\n')
    python.chmod(0o755)
    done = subprocess.run(["make", "-o", "setup", "bench"], cwd=tmp_path, capture_output=True)
    asked = (tmp_path / "asked").read_text().split()
    assert done.returncode != 0 and asked == ["bench.attacks", "bench.train", "bench.plan"]
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in asked)
