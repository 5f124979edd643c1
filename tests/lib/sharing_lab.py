"""Clones of a tiny repository, and the real command lines run in forked processes.

A fork of this process has Snakemake and DVC imported already; that saves seconds per command.
"""

import ctypes
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from projects import warm

from pipeline.plan.params.reader import read
from pipeline.share import writer

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
TABLE = "results/table1.csv"


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    code: int
    text: str

    def ok(self):
        assert self.code == 0, self.text
        return self.text

    def fails(self):
        assert self.code != 0, self.text
        return self.text


def _dvc(argv):
    from dvc.cli import main

    return main(argv)


def _snakemake(argv):
    from snakemake.cli import main

    main(argv)
    return 0


def _module(name):
    def run(argv):
        from pipeline.job.report import report

        sys.argv = [name, *argv]
        report(import_module(name).main)
        return 0

    return run


COMMANDS = {
    "dvc": _dvc,
    "snakemake": _snakemake,
    "record": _module("pipeline.share.record"),
    "merge": _module("pipeline.share.merge"),
    "plan": _module("pipeline.plan.__main__"),
    "download": _module("pipeline.download"),
    "prepare": _module("pipeline.prepare"),
    "train": _module("pipeline.train"),
    "average": _module("pipeline.average"),
    "transfer": _module("pipeline.transfer"),
    "evaluate": _module("pipeline.evaluate"),
    "tabulate": _module("pipeline.tabulate"),
    "status": _module("pipeline.tools.status"),
}


def preload():
    """Import what the commands need, once, in this process."""
    for name in ("dvc.cli", "dvc.repo", "dvc_data.hashfile.tree", "snakemake.cli", "pandas"):
        import_module(name)


def drop_rights():
    """Be an ordinary user to the file system: read-only files are read-only from here on.

    A change of user would do it too, but the interpreter may lie where only root can read.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version, no_root, set_securebits = 0x20080522, 1, 28
    header, none = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()
    if os.getuid() == 0:
        assert libc.prctl(set_securebits, no_root, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
        assert libc.capset(header, none) == 0, os.strerror(ctypes.get_errno())


def _child(argv, folder, env, ordinary):
    os.chdir(folder)
    if ordinary:
        drop_rights()
    os.environ.update(env)
    # the clone's own code, not this checkout's
    for name in [n for n in sys.modules if n.split(".")[0] == "pipeline"]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(p for p in sys.path if p != str(ROOT))]
    return COMMANDS[argv[0]](list(argv[1:]))


def run(folder, *argv, env=None, ordinary=False):
    """One command line in a folder, in a forked process, maybe without root's rights."""
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
                sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True)
                code = _child(argv, folder, env or {}, ordinary) or 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else (1 if stop.code else 0)
                if isinstance(stop.code, str):
                    print(stop.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        log.seek(0)
        text = log.read().decode(errors="replace")
    return Done(os.waitstatus_to_exitcode(status), text)


def shell(folder, *argv, env=None, check=True):
    """A real process."""
    environment = {**os.environ, "PYTHONPATH": "", **(env or {})}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    if check:
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return Done(done.returncode, done.stdout + done.stderr)


def git(folder, *argv, check=True):
    return shell(folder, "git", *argv, check=check)


def commit(folder, message):
    git(folder, "commit", "-q", "-m", message)


def copy_repository(target):
    """The files of this checkout that git would track, as a fresh repository; but for what was made
    here, such as the table of the README's first command."""
    listed = git(ROOT, "ls-files", "-co", "--exclude-standard").text.split("\n")
    for name in filter(None, listed):
        source = ROOT / name
        is_made = name.startswith("results/") and name != "results/.gitkeep"
        is_made = is_made or name.endswith(".dvc")
        if source.is_file() and not is_made:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    git(target, "init", "-q", "-b", "main")
    identify(target)
    warm(target)


def identify(folder):
    git(folder, "config", "user.name", "Test")
    git(folder, "config", "user.email", "test@example.org")


def read_params(folder):
    return read(folder / "params.yaml")


def write_params(folder, params):
    """The values in params.yaml, but the table of AUTE: it stands on its page."""
    tables = params["tables"]
    mine = {name: tables[name] for name in tables if name.startswith("aute_")}
    rest = {name: tables[name] for name in tables if name not in mine}
    writer.write(folder, {**params, "tables": rest})
    (folder / "papers").mkdir()
    (folder / "papers/aute.yaml").write_text(writer.text({"tables": mine}))


def edit(folder, change):
    """Change the plan's values by a function; returns the old text of params.yaml, to put back."""
    old = (folder / "params.yaml").read_text()
    params = read_params(folder)
    change(params)
    write_params(folder, params)
    return old


def clone(origin, target, *, link="copy", cache=None):
    """A fresh clone with its own or a shared cache of one link type."""
    git(target.parent, "clone", "-q", str(origin), str(target))
    identify(target)
    config = f"[cache]\n    type = {link}\n"
    if cache is not None:
        config += f"    dir = {cache}\n    shared = group\n"
    (target / ".dvc" / "config.local").write_text(config)
    warm(target)
    return target


def jobs(folder, *targets, ordinary=False):
    """Number of jobs by rule that a dry run wants."""
    text = run(folder, "snakemake", "-n", "-c2", *(targets or (TABLE,)), ordinary=ordinary).ok()
    found = re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)
    return {rule: int(n) for rule, n in found if rule not in ("total", "all")}
