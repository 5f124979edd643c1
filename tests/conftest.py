"""One thread, so that bytes and times do not depend on the machine's cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Name a folder for what the processes that share out the tests need only build once."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["TESTS_SHARED"] = str(tmp_path_factory.getbasetemp().parent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One more case of what a test shows elsewhere waits for `make thorough`."""
    if "THOROUGH" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.skip(reason="one case more: make thorough"))
