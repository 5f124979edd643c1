"""A stage whose results change must bump its `core` number, and a number that moves must say why.

After changing a component or a core number: `make golden`, and a line in CHANGELOG.md.
"""

import json

import numpy as np
import pytest
from golden.run import GOLDEN, host_class, micro_run

from pipeline.plan.params.schema import available

STAGES = ("prepare", "train", "average", "evaluate", "tabulate", "figure")
STAGES += tuple(f"train/{method}" for method in available("methods"))
# Weights drift in 6 steps where arithmetic differs: verdicts flip on up to five of 40 images, and
# the loss that a figure shows far from the weights moves with them.
NEAR = {"evaluate": (0.02, 0.125), "figure": (0.15, 0.125)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("golden"))
        yield micro_run()


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_changes_its_bytes_only_with_its_core_number(stage, found, golden):
    if host_class() not in golden:
        pytest.skip(f"no golden bytes for {host_class()}; `make golden` adds them")
    assert stage in golden[host_class()], f"{stage} is new: make golden"
    want, have = golden[host_class()][stage], found[stage]
    if want["code"] != have["code"]:
        pytest.fail(f"{stage}: a component it uses has changed: make golden, and say so")
    same_bytes = want["sha256"] == have["sha256"]
    if want["core"] == have["core"]:
        assert same_bytes, f"{stage}: other bytes with its core number {have['core']}: bump it"
    else:
        assert not same_bytes, f"{stage}: its core number moved but the bytes did not: why?"
        pytest.fail(f"{stage}: its core number moved: make golden, and say why in CHANGELOG.md")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_machine_comes_near_the_golden_numbers(stage, found, golden):
    # that of AVX512 beside that of AVX2 shows how far apart two machines are
    want = next(iter(golden.values()))[stage]["numbers"]
    rtol, atol = NEAR.get(stage, (0.02, 0.06))
    assert np.allclose(found[stage]["numbers"], want, rtol=rtol, atol=atol)
