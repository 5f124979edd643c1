"""One thread, so that bytes and times do not depend on the machine's cores; and nothing of what a
user has set for git, a cluster or the pipeline."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)
for name in list(os.environ):
    if name.startswith(("GIT_", "SBATCH_", "SLURM_", "QSUB_", "PBS_", "ROBUST_")):
        del os.environ[name]
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Name a folder for what the processes that share out the tests need only build once."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["TESTS_SHARED"] = str(tmp_path_factory.getbasetemp().parent)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One more case of what a test shows elsewhere waits for `make thorough`."""
    later = [item for item in items if item.get_closest_marker("thorough")]
    if later and "THOROUGH" not in os.environ:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
