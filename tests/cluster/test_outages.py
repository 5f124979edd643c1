"""A real SLURM that goes away, refuses jobs or ends their time: the master goes on behind that."""

import re
import time

import pytest
from projects import Project, job_params
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


def wait(condition, seconds=400, what="it"):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


EPOCHS = 24
PARAMS = job_params(["pgd_at_single"], device="auto", epochs=EPOCHS, train_images=600)


def hurry(project, **seconds):
    """Let the project's copy of the code be less patient."""
    path = project.folder / "pipeline" / "cluster" / "patience.py"
    code = path.read_text()
    for name, value in seconds.items():
        code, count = re.subn(rf"^{name} = \d+", f"{name} = {value}", code, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(code)


def losses(log):
    """Epochs that a run's log tells of."""
    return re.findall(r" (\d+)/\d+ loss", log.read_text() if log.exists() else "")


def writer(log):
    """The SLURM job that writes a log."""
    return re.search(r"# SLURM job (\d+),", log.read_text())[1]


def test_a_restart_of_slurm_costs_no_job(slurm, tmp_path):
    project = Project(tmp_path, PARAMS, slurm.env)
    (run,), _ = project.plan()
    weights = f"results/runs/{run}/weights.safetensors"
    slurm.refuse("sacct", *["Slurm accounting storage is disabled"] * MANY)
    with (tmp_path / "screen").open("w") as screen:
        master = project.start(*MASTER, weights, *FAST, stdout=screen)
        log = project.folder / "logs" / "train" / f"{run}.log"
        wait(lambda: losses(log), what="an epoch")
        slurm.kill_controller()
        # without slurmctld the executor asks the accounting, which this cluster has not
        wait(lambda: slurm.refuses("sacct") < MANY, what="a look")
        time.sleep(ATTEMPTS + 2)
        slurm.start_controller()
        try:
            code = master.wait(300)
        finally:
            master.kill()
    text = (tmp_path / "screen").read_text()
    assert code == 0, text[-3000:]
    assert (project.folder / weights).exists() and "Trying to restart" not in text
    assert losses(log) == [str(epoch) for epoch in range(1, EPOCHS + 1)]


def test_a_run_of_three_slices_and_two_refusals_is_no_failure(slurm, tmp_path):
    project = Project(tmp_path, PARAMS, slurm.env)
    (run,), _ = project.plan()
    weights = f"results/runs/{run}/weights.safetensors"
    hurry(project, BUSY_SECONDS=1)
    busy = "sbatch: error: Slurm temporarily unable to accept job"
    slurm.refuse("sbatch", busy, "sbatch: error: AssocMaxSubmitJobLimit")
    project.env["SBATCH_PARTITION"] = "short"  # which takes no job of more than two minutes
    profile = project.folder / "slurm" / "config.yaml"  # whose warning would come at the start
    profile.write_text(profile.read_text().replace("--signal=USR1@120 ", ""))
    log = project.folder / "logs" / "train" / f"{run}.log"
    with (tmp_path / "screen").open("w") as screen:
        master = project.start(*MASTER, weights, *FAST, stdout=screen)
        try:
            jobs = []
            for _ in range(2):
                wait(lambda: losses(log) and writer(log) not in jobs, what="an epoch of a slice")
                jobs.append(writer(log))
                slurm.call("scancel", "--signal=USR1", jobs[-1])  # as SLURM does before a limit
            code = master.wait(300)
        finally:
            master.kill()
    text = (tmp_path / "screen").read_text()
    assert code == 0, text[-3000:]
    assert not slurm.refuses("sbatch") and text.count("SLURM takes no job now") == 2
    assert text.count(f"of {run} ended, the next is submitted") >= 2  # or SLURM's own limit too
    assert "Trying to restart" not in text and int(losses(log)[0]) > 2
    assert losses(log)[-1] == str(EPOCHS)
