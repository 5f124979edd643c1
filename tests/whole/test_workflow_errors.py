"""Bad input ends in one line that names file and key, exit code 1 and no trace."""

import re

import pytest
from projects import TARGET, command, copy_project, edit, tiny_params

pytestmark = pytest.mark.workflow

SNAKEMAKE = ("snakemake", "-c1", TARGET)
BY_HAND = ("python", "-m", "pipeline.plan", TARGET)
BAD = {
    "unknown key": (
        "attack: train_trades10, beta: 6}",
        "attack: train_trades10, beta: 6, bata: 7}",
        "params.yaml: methods.trades.bata: no such key (nearest: beta)",
    ),
    "missing key": (
        "attack: train_trades10, beta: 6}",
        "attack: train_trades10}",
        "params.yaml: methods.trades: key beta is missing; add it",
    ),
    "unknown method": (
        "[trades, wa]",
        "[tradez, wa]",
        "params.yaml: tables.table1.rows: no entry 'tradez' (nearest: trades)",
    ),
    "unknown scale": (
        "scale: demo\n",
        "scale: dmo\n",
        "params.yaml: scale: no entry 'dmo' (nearest: demo)",
    ),
    "mistyped value": (
        "attack: train_trades10, beta: 6}",
        "attack: train_trades10, beta: six}",
        "params.yaml: methods.trades.beta: 'six' is not a number or a fraction such as 8/255",
    ),
    "a growing scale": (
        "images: 20\n",
        "images: 0\n",
        "params.yaml: scales.demo.images: 0 is too few; write 1 or more",
    ),
}


@pytest.fixture
def project(tmp_path):
    """A tiny project, nothing built."""
    return copy_project(tmp_path, tiny_params())


def refusal(folder, *words):
    """The error line of a command that must fail."""
    done = command(folder, *words)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    (line,) = re.findall(r"^error: (.*)$", done.stdout, re.MULTILINE)
    return line


@pytest.mark.parametrize("words", [SNAKEMAKE, BY_HAND], ids=["snakemake", "by hand"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_value_is_named_before_any_job(what, words, project):
    old, new, message = BAD[what]
    edit(project, old, new)
    assert message in refusal(project, *words)
    assert not (project / "results").exists()


def test_a_file_that_is_no_yaml_is_refused_with_its_line(project):
    edit(project, "scale: demo\n", "scale: [demo\n")
    assert re.match(r"params.yaml:\d+: not valid YAML", refusal(project, *BY_HAND))
    done = command(project, *SNAKEMAKE)  # our reader goes before its own
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "error: params.yaml:" in done.stdout and "not valid YAML" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("snakemake", "-c1", "results/tabel1.csv"),
        ("snakemake", "-n", "results/tabel1.csv"),
        ("python", "-m", "pipeline.plan", "results/tabel1.csv"),
        ("python", "-m", "pipeline.tabulate", "results/tabel1.csv"),
    ],
    ids=" ".join,
)
def test_an_unknown_table_is_named_with_the_nearest(words, project):
    assert "'tabel1' (nearest: table1)" in refusal(project, *words)


@pytest.mark.parametrize("stage", ["train", "average", "evaluate"])
def test_an_unknown_artifact_is_named(stage, project):
    words = ("python", "-m", f"pipeline.{stage}", "digits-x-s0-00")
    assert "'digits-x-s0-00'" in refusal(project, *words)


def test_a_value_given_by_config_is_refused(project):
    line = refusal(project, "snakemake", "-n", TARGET, "--config", "scale=paper")
    assert line == "--config scale: change it in params.yaml instead"


def test_a_missing_gpu_is_named_by_the_command_and_in_snakemakes_log(project):
    edit(project, "device: cpu", "device: cuda")
    found = command(project, "python", "-m", "pipeline.plan", TARGET).stdout
    run = re.search(r"need +train +(\S*trades\S*)", found)[1]
    for stage in ("download", "prepare"):
        assert command(project, "python", "-m", f"pipeline.{stage}", "digits").returncode == 0
    message = "params.yaml: scale's device is cuda but torch sees no GPU"
    assert message in refusal(project, "python", "-m", "pipeline.train", run)
    weights = f"results/runs/{run}/weights.safetensors"
    done = command(project, "snakemake", "-q", "rules", "host", "-c1", weights)
    assert done.returncode == 1
    assert f"\nfailed: train {run.rpartition('-')[0]}: error: {message}" in done.stdout
    assert message in (project / "logs" / "train" / f"{run}.log").read_text()
    assert not (project / weights).exists()
