"""What a command's end says, in one line."""

import sys
from types import SimpleNamespace

import pytest
import torch

from pipeline.job.report import report


@pytest.mark.parametrize("module, key", [
    ("pipeline.train", "`graphs: none` of resources.train, or a smaller `micro_batch`"),
    ("pipeline.average", "a smaller `micro_batch` of its recipe"),
    ("pipeline.evaluate", "params.yaml a smaller `batch` of resources.evaluate"),
    ("pipeline.transfer", "params.yaml a smaller `batch` of resources.evaluate"),
    ("pipeline.figure", "the GPU's memory is full: end what else computes on it"),
])  # fmt: skip
def test_a_full_gpu_is_one_line_that_names_the_key(monkeypatch, module, key):
    def compute(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name=module))
    with pytest.raises(SystemExit) as ended:
        report(compute)
    said = str(ended.value.code)
    assert said.startswith("error: the GPU's memory is full") and key in said
    assert "\n" not in said


def test_another_runtime_error_is_a_fault_of_the_program():
    def compute(_: object) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        report(compute)
