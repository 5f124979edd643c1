"""The graph on a tiny project with real commands: what an edit makes run again, and what not."""

import ast
import os
import re
import shutil
import zipfile

import pytest
from projects import TARGET, command, copy_project, edit, jobs, published, run, tiny_params

from pipeline.share import writer

pytestmark = pytest.mark.workflow

ONE_METHOD = {"train": 1, "evaluate": 1, "tabulate": 1}
BETA = "attack: train_trades10, beta: 6}"  # that of trades


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A project whose table was made once, and what Snakemake said."""
    folder = copy_project(tmp_path_factory.mktemp("built"), tiny_params())
    return folder, run(folder)


@pytest.fixture
def built(first, tmp_path):
    """A copy of it, times kept."""
    return shutil.copytree(first[0], tmp_path / "project")


def test_one_command_goes_from_nothing_to_the_table(first):
    folder, said = first
    head, *rows = (folder / TARGET).read_text().splitlines()
    assert "fgsm" in head and [row.split(",")[0] for row in rows] == ["trades", "wa"]
    for name in (
        "table1.md",
        "table1.json",
        "table1.png",
        "table1.pdf",
        "table1.tex",
        "metrics/table1/trades.json",
    ):
        assert (folder / "results" / name).stat().st_size > 0
    assert not list(folder.rglob("*.tmp"))
    assert [line for line in said.splitlines() if line.startswith("scale demo: digits for cifar10")]


def test_one_line_after_each_job_tells_work_rows_and_time_and_no_counts_of_jobs(first):
    _, said = first
    lines = [line for line in said.splitlines() if "; finished: " in line]
    assert len(lines) == int(re.search(r"^total +(\d+)$", said, re.MULTILINE)[1])
    form = r"\d+ % of the work(, about .+ left)?, [0-2] of 2 rows; finished: \w+( [^,;]+)?"
    assert all(re.fullmatch(form, line) for line in lines), lines
    shares = [int(line.partition(" ")[0]) for line in lines]
    assert shares[0] == 0 < shares[4] < 100 and all(share < 100 for share in shares[:-1])
    assert re.search(r", about .+ left, 0 of 2 rows; finished: train digits-\S+-s0 \(", said)
    assert lines[-1] == "100 % of the work, 2 of 2 rows; finished: tabulate table1"
    for word in ("Finished jobid", "steps (", "Select jobs", "Execute 1", "\033"):
        assert word not in said


def test_a_graph_that_the_user_cuts_is_no_failure(tmp_path):
    folder = copy_project(tmp_path, tiny_params())
    cuts = (["--touch"], ["--until", "prepare"], ["--until", "train"], ["--batch", "tabulate=1/2"])
    for cut in cuts:
        done = command(folder, "snakemake", "-c1", TARGET, *cut)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not (folder / TARGET).exists()
    assert jobs(folder, "--until", "train") == {}
    run(folder)
    assert (folder / TARGET).exists() and jobs(folder) == {}


def test_a_second_run_has_nothing_to_do(built):
    assert jobs(built) == {}


def test_snakemakes_own_report_has_captions_and_asks_no_other_machine(built, tmp_path):
    done = command(built, "snakemake", "--report", str(tmp_path / "page.zip"), TARGET)
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(tmp_path / "page.zip") as archive:
        page = archive.read("page/report.html").decode()
    assert "Every accuracy of this table with its 95 % interval" in page
    assert '"as": "numbers"' in page and '"as": "picture"' in page
    assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css)"', page)


def test_an_edited_value_reruns_what_depends_on_it_and_nothing_once_it_is_back(built):
    before = (built / TARGET).read_bytes()
    edit(built, BETA, BETA.replace("6", "2"))
    assert jobs(built) == ONE_METHOD
    run(built)
    assert jobs(built) == {}
    edit(built, BETA.replace("6", "2"), BETA)
    assert jobs(built) == {"tabulate": 1}
    run(built)
    assert (built / TARGET).read_bytes() == before


def test_a_value_edited_and_put_back_without_a_run_costs_nothing(built):
    edit(built, BETA, BETA.replace("6", "2"))
    assert jobs(built) == ONE_METHOD
    edit(built, BETA.replace("6", "2"), BETA)
    assert jobs(built) == {}


def test_two_swapped_values_are_noticed(built):
    params = tiny_params()
    params["recipes"]["unified"] |= {"lr": 0.9, "momentum": 0.1}  # 0.1 and 0.9
    writer.write(built, params)
    assert jobs(built)["train"] == 2


def test_times_metadata_and_deleted_inputs_do_not_matter(built):
    for path in [
        *(built / "pipeline").rglob("*.*"),
        *built.glob("[Sp]*"),
        *built.glob("data/**/*"),
    ]:
        os.utime(path)
    shutil.rmtree(built / ".snakemake")
    assert jobs(built) == {}
    shutil.rmtree(built / "data" / "raw")
    shutil.rmtree(built / "data" / "digits")
    shutil.rmtree(built / "results" / "runs")
    shutil.rmtree(built / "results" / "snapshots")
    assert jobs(built) == {}


def test_a_reformatted_method_reruns_nothing(built):
    path = built / "pipeline" / "methods" / "trades.py"
    reformatted = ast.unparse(ast.parse(path.read_text())).replace("\n", "\n\n")
    path.write_text("# another comment\n" + reformatted)
    assert jobs(built) == {}


def test_changed_code_of_a_method_reruns_exactly_its_runs(built):
    edit(
        built,
        "adversarial, self.beta)",
        "adversarial, 2 * self.beta)",
        "pipeline/methods/trades.py",
    )
    assert jobs(built) == ONE_METHOD


def test_a_lost_trajectory_is_derived_again_only_when_an_average_needs_it(built):
    shutil.rmtree(built / "results" / "snapshots")
    edit(
        built,
        "def combine",
        "def unused(self) -> None: return None\n\n    def combine",
        "pipeline/averages/wa.py",
    )
    assert jobs(built) == {"trajectory": 1, "average": 1, "evaluate": 1, "tabulate": 1}


def test_a_deleted_record_is_made_again_without_training(built):
    (record,) = (built / "results" / "records").glob("*trades*/*.npz")
    record.unlink()
    assert jobs(built) == {}  # the table is today's: nothing asks for the record
    (built / TARGET).unlink()
    assert jobs(built) == {"evaluate": 1, "tabulate": 1}


# The others differ in numbers only: every scale is planned in tests/plan/test_plan_scales.py.
@pytest.mark.parametrize("scale", ["paper", "demo"])
def test_every_table_with_every_row_dry_runs(scale, tmp_path):
    folder = copy_project(tmp_path, published() | {"scale": scale})
    assert jobs(folder, "tables")["train"] >= 2
