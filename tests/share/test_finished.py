"""What is recorded of a run's parents: the bytes that it was made from, not those that are here."""

import json

import pytest
import tiny

from pipeline import train
from pipeline.errors import UserError
from pipeline.plan import Run
from pipeline.share import finished
from pipeline.store import manifest
from pipeline.store.files import sha256_of


def verified(run: Run) -> dict[str, str]:
    (found,) = [artifact for artifact in finished.on_disk() if artifact.path == run.folder]
    return finished.verify(found)


@pytest.fixture
def here(tmp_path, monkeypatch) -> tuple[Run, Run, str]:
    """A teacher, its student, and the sum of the weights that taught it."""
    plan = tiny.place(tmp_path, monkeypatch, tiny.changed(epochs=1, validate_every=0))
    student = tiny.one_run(plan, "hat")
    (teacher,) = map(plan.run, student.parents)
    for run in (teacher, student):
        train.train(plan, run, tiny.CPU, None)
    return teacher, student, sha256_of(teacher.weights)


def list_teacher(teacher: Run, sha256: str) -> None:
    line = manifest.Line(
        artifact=str(teacher.folder),
        sha256={"weights.safetensors": sha256},
        bytes=1,
        rests_on={},
        plan="p",
        date="2026-11-20T12:00:00+00:00",
        host="h",
        versions={},
        seconds=1.0,
    )
    manifest.MANIFEST.write_text(line.text() + "\n")


def test_a_student_rests_on_the_bytes_that_taught_it(here):
    teacher, student, summed = here
    assert verified(student) == {str(teacher.folder): summed}
    tiny.replaced(teacher)
    assert verified(student) == {str(teacher.folder): summed}
    list_teacher(teacher, summed)
    assert verified(student) == {str(teacher.folder): summed}


def test_a_student_of_another_teacher_than_counts_is_refused(here):
    teacher, student, _ = here
    list_teacher(teacher, tiny.replaced(teacher))
    with pytest.raises(UserError, match="was made from other weights or images of") as raised:
        verified(student)
    assert str(student.folder) in tiny.line(raised) and str(teacher.folder) in tiny.line(raised)


@pytest.mark.parametrize("said", [None, 5, {"x": "y"}, {"results/runs/x": 7}])
def test_a_run_that_states_no_sums_rests_on_what_is_here(here, said):
    teacher, student, _ = here
    path = student.folder / "run.time.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rests_on": said}))
    summed = tiny.replaced(teacher)
    assert verified(student) == {str(teacher.folder): summed}
