"""One screen of what runs, what failed, what is left."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from pipeline.cluster import master
from pipeline.job.logs import find_pack_log
from pipeline.job.progress import Progress
from pipeline.job.report import report
from pipeline.store import lease
from pipeline.tools import status


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A table of two rows, nothing made."""
    return tiny.place(tmp_path, monkeypatch, tiny.table_of(["pgd_at", "standard"]))


def write_log(run, text):
    path = Path("logs/train") / f"{run.id}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lines_of(plan, word):
    return [n for n in status.screen(plan, ["table1"]).splitlines() if n.startswith(word)]


def test_what_runs_is_told_by_its_lease_and_not_by_an_old_log(plan):
    run = tiny.one_run(plan, "pgd_at")
    write_log(run, f"# a command\n{run.id}: 1/2 loss 2.3 (4 s each, 4 s left)\n")
    assert lines_of(plan, "running") == []
    with lease.hold(f"runs/{run.id}"):
        (line,) = lines_of(plan, "running")
        assert f"train {run.id}: 1/2 loss 2.3 (4 s each, 4 s left) (process " in line
        assert lines_of(plan, "failed") == []
        beside = find_pack_log(run.id)  # while another job of its pack trains it
        beside.write_text(f"{run.id}: 2/2 loss 1.9 (4 s each, 0 s left)\n")
        assert "2/2 loss 1.9" in lines_of(plan, "running")[0]
        beside.unlink()
    assert lines_of(plan, "running") == []
    (line,) = lines_of(plan, "failed")
    assert "ended without a word: " in line


def test_what_failed_says_its_last_line_and_what_stopped_or_ended_is_no_failure(plan):
    run = tiny.one_run(plan, "pgd_at")
    write_log(run, "# a command\nerror: disk full\n")
    assert lines_of(plan, "failed") == [f"failed   train {run.id}: error: disk full"]
    for end in ("stopped: as asked", "# done"):
        write_log(run, f"# a command\n{end}\n")
        assert lines_of(plan, "failed") == []


def test_work_is_counted_by_its_estimate_and_an_unknown_one_is_called_so(plan):
    first, *_ = status.screen(plan, ["table1"]).splitlines()
    assert first.startswith("0 % of the estimated work is done; left, on one process: ")

    def work(*pairs):
        return status._describe_work(
            [status.State(plan.dataset("digits"), *pair) for pair in pairs], []
        )

    assert work(("have", 30.0), ("need", 10.0), ("not needed", 70.0)) == (
        "75 % of the estimated work is done; left, on one process: 10 seconds"
    )
    assert work(("have", 30.0), ("need", None)).startswith("1 of 2 artifacts are here; the work")


def test_while_a_workflow_runs_what_it_was_asked_for_is_shown(tmp_path, monkeypatch):
    """Half a table of two was "4 % done": everything of the scale was counted."""
    params = tiny.table_of(["pgd_at"])
    params["tables"]["other"] = {"base": "table1", "rows": ["standard"]}
    plan = tiny.place(tmp_path, monkeypatch, params)

    def waiting():
        return [n for n in status.screen(plan, []).splitlines() if n.startswith("waiting")]

    both = waiting()
    master.note_asked([SimpleNamespace(output=["results/other.csv"], input=["a", "b"])])
    assert waiting() == both  # of a workflow that is over
    with lease.hold("master"):
        assert waiting() == [n for n in status.screen(plan, ["other"]).splitlines() if n[:1] == "w"]
        assert waiting() != both

        master.note_asked([SimpleNamespace(output=[], input=["results/report.html"])])
        assert waiting() == both  # no table among it


def test_a_line_of_progress_says_how_long_a_step_takes_and_what_is_left(capsys, monkeypatch):
    clock = iter([0.0, 4.0, 6.0])
    monkeypatch.setattr("pipeline.job.progress.time.monotonic", lambda: next(clock))
    with Progress("a", 10) as progress:
        progress.line(7, "loss 1")  # a resumed one
        progress.line(8, "loss 1")
    assert capsys.readouterr().out.splitlines() == [
        "a: 7/10 loss 1 (4 s each, 12 s left)",
        "a: 8/10 loss 1 (3 s each, 6 s left)",
    ]


def test_a_failure_of_data_or_of_a_table_is_shown_too(plan):
    data = plan.dataset("digits")
    logs = {
        "download": data.raw.name,
        "prepare": f"{data.name}-{data.digest}",
        "tabulate": "table1",
    }
    for stage, name in logs.items():
        path = Path("logs") / stage / f"{name}.log"
        path.parent.mkdir(parents=True)
        path.write_text(f"# a command\nerror: {stage}\n")
    Path("data/digits").unlink()  # the link to what is prepared
    assert lines_of(plan, "failed") == [
        "failed   download digits: error: download",
        "failed   prepare digits: error: prepare",
        "failed   tabulate table1: error: tabulate",
    ]
    path.write_text("# a command\n")
    assert "failed   tabulate table1: ended without a word: # a command" in lines_of(plan, "failed")
    with lease.hold("master"):  # which may be at it
        assert len(lines_of(plan, "failed")) == 2


def test_who_watches_leaves_by_ctrl_c_without_a_trace(plan, monkeypatch, capsys):
    def leave(_):  # what the signal does, which a shell's background jobs ignore
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["status", "table1", "--watch"])
    monkeypatch.setattr(status.time, "sleep", leave)
    with pytest.raises(SystemExit) as ended:
        report(status.main)
    assert ended.value.code == 130 and capsys.readouterr().err == ""
