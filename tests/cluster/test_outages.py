"""A real SLURM that goes away, refuses or forgets: the master waits, then goes on."""

import re
import time

import pytest
from project import Project, tiny
from slurm_lab import Slurm, unavailable

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "available"),
]
MASTER = ("snakemake", "--profile", "slurm", "--retries", "0")
FAST = ("--slurm-init-seconds-before-status-checks", "1")
ATTEMPTS = 5  # a second apart and without an answer: the executor (2.8.0) forgets its jobs
MANY = 100


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm") / "lab", nodes=1, cpus=2, gpus=1) as lab:
        yield lab


def wait(condition, seconds=120, what="it"):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


LIMIT = "sbatch: error: AssocMaxSubmitJobLimit"


def hurry(project, **seconds):
    """Let the project's copy of the code be less patient."""
    path = project.folder / "pipeline" / "cluster" / "patience.py"
    code = path.read_text()
    for name, value in seconds.items():
        code, count = re.subn(rf"^{name} = \d+", f"{name} = {value}", code, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(code)


def test_neither_a_restart_of_slurm_nor_a_refusal_costs_a_job(slurm, tmp_path):
    params = tiny(["pgd_at_single"], device="auto", epochs=8, train_images=300)
    project = Project(tmp_path, params, slurm.env)
    (run,), _ = project.plan()
    weights = f"results/runs/{run}/weights.safetensors"
    hurry(project, BUSY_SECONDS=1)
    slurm.refuse("sbatch", "sbatch: error: Slurm temporarily unable to accept job", LIMIT)
    slurm.refuse("sacct", *["Slurm accounting storage is disabled"] * MANY)
    with (tmp_path / "screen").open("w") as screen:
        master = project.start(*MASTER, weights, *FAST, stdout=screen)
        log = project.folder / "logs" / "train" / f"{run}.log"
        wait(lambda: log.exists() and " loss " in log.read_text(), what="an epoch")
        slurm.kill_controller()
        # without slurmctld the executor asks the accounting, which this cluster has not
        wait(lambda: slurm.refuses("sacct") < MANY, what="a look")
        time.sleep(ATTEMPTS + 2)
        slurm.start_controller()
        try:
            code = master.wait(120)
        finally:
            master.kill()
    text = (tmp_path / "screen").read_text()
    assert code == 0, text[-3000:]
    assert not slurm.refuses("sbatch") and text.count("SLURM takes no job now") == 2
    assert (project.folder / weights).exists() and "Trying to restart" not in text
    assert [line.split()[1] for line in log.read_text().splitlines() if " loss " in line] == [
        f"{epoch}/8" for epoch in range(1, 9)
    ]
