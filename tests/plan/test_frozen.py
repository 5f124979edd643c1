"""Jobs run from the copy of plan and code that their workflow started with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from projects import Project, job_params

from pipeline.errors import UserError
from pipeline.plan import frozen
from pipeline.plan.params import references, schema
from pipeline.share import writer

NAMES = (
    "from pipeline.plan import load_plan; import pipeline; p = load_plan();"
    "print(pipeline.__file__, sorted(p.graph.runs), [t.digest for t in p.tables.values()])"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    params = job_params(["pgd_at", "trades"])
    params["tables"]["table1"]["reported"] = "aute"
    page = {"recipes": {"red": params["recipes"].pop("red")}}
    project = Project(tmp_path, params, prepared=False)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/red.yaml").write_text(writer.text(page))
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(frozen, "ROOT", project.folder)
    for name in (frozen.VARIABLE, "PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # freezing sets them: the patch takes them away again
    return project


def names():
    """What a job reads: where its code lies, and the plan's names."""
    words = [sys.executable, "-c", NAMES]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=True)
    where, _, rest = done.stdout.partition(" ")
    return Path(where), rest


def test_a_job_sees_the_plan_and_code_of_its_start_whatever_is_edited(place):
    before = names()
    assert before[0].is_relative_to(place.folder / "pipeline")
    copy = frozen.freeze(frozen.fingerprint())
    assert (copy / "papers/red.yaml").is_file()
    (place.folder / "params.yaml").write_text("scale: [")
    (place.folder / "pipeline" / "plan" / "__init__.py").write_text("raise SystemExit('edited')")
    (place.folder / "data" / "reported" / "aute.csv").unlink()
    (place.folder / "papers/red.yaml").write_text("recipes: [")
    where, rest = names()
    assert where.is_relative_to(copy) and rest == before[1]
    assert "pgd_at" in rest


def test_every_file_that_names_depend_on_is_in_the_copy(place):
    frozen.freeze(frozen.fingerprint())
    whole = {p.relative_to(place.folder) for p in (place.folder / "pipeline").rglob("*.*")}
    copy = Path(os.environ[frozen.VARIABLE])
    copied = {p.relative_to(copy) for p in (copy / "pipeline").rglob("*.*")}

    # What is only read by people: pages of a room, captions of Snakemake's report.
    prose = {".md", ".rst"}
    left = {p for p in whole - copied if p.suffix not in prose and "__pycache__" not in p.parts}
    assert left == set()


def test_an_editors_leftover_is_no_code(place, monkeypatch):
    monkeypatch.setattr(references, "ROOT", place.folder)

    def look():
        references.files.cache_clear()
        thing = schema.component("methods", "pgd_at", place.folder)
        return frozen.fingerprint(), schema._sum_code(place.folder), thing, {*references.files()}

    before, room = look(), place.folder / "pipeline/methods"
    (room / ".#pgd_at.py").symlink_to("me@host.1234")  # Emacs, of a buffer that is not saved
    (room / "._pgd_at.py").write_bytes(b"\0\5\x16\7")  # macOS, on a disk of another system
    try:
        assert look() == before
    finally:
        references.files.cache_clear()


def test_files_that_change_while_a_workflow_starts_are_one_line(place):
    fingerprint = frozen.fingerprint()
    (place.folder / "params.yaml").write_text("scale: demo\n")
    with pytest.raises(UserError, match="changed while starting; run it again"):
        frozen.freeze(fingerprint)
    assert not list(frozen.STORE.iterdir())


def test_a_copy_that_is_not_what_its_name_says_is_made_again(place):
    faults = {"params.yaml": None, "papers/red.yaml": "", "pipeline/evaluate.py": "SEED = 1\n"}
    for name, text in faults.items():
        copy = frozen.freeze(frozen.fingerprint())
        whole = (copy / name).read_bytes()
        (copy / name).unlink() if text is None else (copy / name).write_text(text)
        for variable in (frozen.VARIABLE, "PYTHONPATH"):
            os.environ.pop(variable)
        assert frozen.freeze(frozen.fingerprint()) == copy
        assert (copy / name).read_bytes() == whole
        assert len(list(frozen.STORE.iterdir())) == 1
        os.environ.pop(frozen.VARIABLE)


def test_another_page_is_another_copy(place):
    first = frozen.fingerprint()
    (place.folder / "papers/soe.yaml").write_text("recipes: {}\n")
    assert frozen.fingerprint() != first


def test_equal_plans_share_a_copy_and_old_copies_go(place):
    first = frozen.freeze(frozen.fingerprint())
    os.utime(first, (1, 1))
    (place.folder / "params.yaml").write_text("scale: demo\n")
    for name in (frozen.VARIABLE, "PYTHONPATH"):
        os.environ.pop(name)
    second = frozen.freeze(frozen.fingerprint())
    assert not first.exists() and second.exists()
    assert frozen.freeze(frozen.fingerprint()) == second
