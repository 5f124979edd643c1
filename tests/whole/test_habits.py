"""Terminals, folders and clones as people have them."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from projects import ROOT, command, copy_project, tiny_params

from pipeline.cluster import master
from pipeline.errors import UserError

SAYS_LINES = "from pipeline.job.report import report; report(lambda argv: print('a\\n' * 100000))"
SAYS_SIGN = "from pipeline.job.report import report; report(lambda argv: print('1.0 \\u00b1 0.5'))"


def test_a_reader_that_closes_the_pipe_is_no_error():
    words = f'{sys.executable} -c "$SCRIPT" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", words],
        cwd=ROOT,
        env={**os.environ, "SCRIPT": SAYS_LINES},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("a\n141\n", "")


def test_a_terminal_that_cannot_print_a_sign_gets_another():
    done = subprocess.run(
        [sys.executable, "-c", SAYS_SIGN],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.0 ? 0.5\n", "")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "nothing was written"),
        ("sacct: not found\n", "sacct: not found"),
        ("module loaded\n# python -m pipeline.train a\nerror: x\n", "pipeline.train a"),
    ],
)
def test_a_failed_job_is_said_by_hand_only_where_its_log_names_a_command(
    log, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(master, "_STARTED", [0])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "job.log").write_text(log)
    master.explain()
    text = capsys.readouterr().err
    assert said in text
    by_hand = re.findall("by hand, in this folder: (.*)", text)
    assert by_hand == (["python -m pipeline.train a"] if "python" in log else [])


def test_a_job_that_saved_and_stopped_has_not_failed(tmp_path, monkeypatch, capsys):
    """After Ctrl-C every job was said to have failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(master, "_STARTED", [0])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "job.log").write_text("# a head\nstopped: a: saved in epoch 5\n")
    master.explain()
    assert capsys.readouterr().err == ""


def test_a_folder_whose_name_splits_a_search_path_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "10:30"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="10:30: a path with ':' splits .*; move or rename"):
        master.check_folder()


@pytest.mark.workflow
def test_snakemake_says_so_in_one_line(tmp_path):
    project = copy_project(tmp_path / "10:30", tiny_params())
    done = command(project, "snakemake", "-n", "results/table1.csv")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "error: " in done.stdout and "move or rename the folder" in done.stdout


@pytest.fixture
def clone(tmp_path):
    """A clone under a path with a space, with an environment that is a folder alone."""
    folder = tmp_path / "my clone"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to("/bin/true")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "envs", folder / "envs")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def make(folder, *words):
    done = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gits_merge_driver_runs_in_a_path_with_a_space(clone):
    make(clone, "drivers")
    python = clone / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\ncat "$5" >> "$4"\n')
    python.chmod(0o755)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")

    def git(*words):
        subprocess.run(["git", *identity, *words], cwd=clone, check=True, capture_output=True)

    (clone / ".gitattributes").write_text("*.dvc merge=dvc\n")
    pool = clone / "records.dvc"
    for branch, text in (("base", ""), ("left", "a\n"), ("right", "b\n")):
        git("checkout", "-q", "-b", branch, *(["base"] if branch != "base" else []))
        pool.write_text(text)
        git("add", "records.dvc", ".gitattributes")
        git("commit", "-q", "-m", branch)
    git("merge", "-q", "left")
    assert (clone / "asked").read_text().startswith("-m\npipeline.share.driver\n")
    assert pool.read_text() == "b\na\n"


@pytest.mark.parametrize(("made_in", "again"), [("here", False), ("elsewhere", True)])
def test_a_clone_that_was_moved_gets_an_environment_of_its_own(made_in, again, clone):
    place = {"here": f"{clone}/.venv", "elsewhere": "/gone/.venv"}[made_in]
    (clone / ".venv" / ".installed").write_text(f"{place}\n")
    assert ("-m venv --clear .venv" in make(clone, "-n", "setup")) == again


def test_a_new_environment_notes_where_it_was_made(clone):
    make(clone, "setup", "PYTHON=/bin/true")
    assert (clone / ".venv" / ".installed").read_text() == f"{clone / '.venv'}\n"


NAMELESS = ("unshare", "--user", "--map-user=12345", "--map-group=12345", "--")


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NAMELESS, "true"]).returncode != 0,
    reason="needs user namespaces",
)
def test_a_user_without_name_and_home_gets_both(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "home").write_text("no folder")
    env = {k: v for k, v in os.environ.items() if k not in ("USER", "LOGNAME", "XDG_CACHE_HOME")}
    env |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

    show = "show:;@echo $$USER $$XDG_CACHE_HOME"
    python = "import getpass, os; from pipeline.job.report import report; report(lambda _: print("
    python += "getpass.getuser(), os.environ['XDG_CACHE_HOME']), is_job=False)"
    for words in (["make", "-s", f"--eval={show}", "show"], [sys.executable, "-c", python]):
        done = subprocess.run(
            [*NAMELESS, *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert re.fullmatch(rf"(uid)?12345 {tmp_path / 'work' / 'cache'}", done.stdout.strip()), (
            done.stderr
        )
