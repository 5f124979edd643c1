"""A stage whose results change must bump its `core` number, and a number that moves must say why.

After changing a component or a core number: `make golden`, and a line in CHANGELOG.md.
"""

import json
import sys

import numpy as np
import pytest
from golden import run
from golden.calls import heard, with_constants
from golden.micro import PARTS, micro_run
from golden.run import GOLDEN, host_class

from pipeline.core import ensemble
from pipeline.core.losses import true_probability
from pipeline.plan import shared

# Weights drift in 6 steps where arithmetic differs: verdicts flip on up to five of 40 images, and
# the loss that a figure shows far from the weights moves with them; rules meet 20 images.
NEAR = {"evaluate": (0.02, 0.125), "figure": (0.15, 0.125), "evaluate/rules": (0.02, 0.3)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("golden"))
        yield micro_run()


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_stage_changes_its_bytes_only_with_its_core_number(part, found, golden):
    if host_class() not in golden:
        pytest.skip(f"no golden bytes for {host_class()}; `make golden` adds them")
    assert part in golden[host_class()], f"{part} is new: make golden"
    want, have = golden[host_class()][part], found[part]
    if want.get("spec") != have["spec"]:
        pytest.fail(f"{part}: its parameters or a component have changed: make golden, and say so")
    same_bytes = want["sha256"] == have["sha256"]
    if want["core"] == have["core"]:
        assert same_bytes, f"{part}: other bytes with its core number {have['core']}: bump it"
    else:
        assert not same_bytes, f"{part}: its core number moved but the bytes did not: why?"
        pytest.fail(f"{part}: its core number moved: make golden, and say why in CHANGELOG.md")


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_machine_comes_near_the_golden_numbers(part, found, golden):
    # that of AVX512 beside that of AVX2 shows how far apart two machines are
    want = next(iter(golden.values()))[part]["numbers"]
    rtol, atol = NEAR.get(part, (0.02, 0.06))
    assert np.allclose(found[part]["numbers"], want, rtol=rtol, atol=atol)


# ---- what the golden run proves


LOSS, OTHER = "core/losses.py:cross_entropy", "core/losses.py:margin"
BEFORE = {
    "train": {"core": 1, "spec": "a", "sha256": "x"},
    "train/trades": {"core": 1, "spec": "b", "sha256": "y"},
    "evaluate": {"core": 1, "spec": "c", "sha256": "z"},
}
RAN = {"train": {LOSS}, "train/trades": {OTHER}}


def changed(part, **values):
    return BEFORE | {part: BEFORE[part] | values}


def test_only_what_ran_for_equal_bytes_is_proven():
    assert run.find_proven(BEFORE, BEFORE, RAN)["train"] >= {LOSS, OTHER}
    for values in ({"spec": "other"}, {"core": 2}):  # not comparable, with whatever bytes
        proven = run.find_proven(BEFORE, changed("train/trades", **values), RAN)
        assert LOSS in proven["train"] and OTHER not in proven["train"]
    assert run.find_proven({}, BEFORE, RAN) == {}


def test_an_average_is_proven_with_the_code_of_its_training():
    proven = run.find_proven(*2 * [BEFORE | {"average": BEFORE["train"]}], RAN)
    assert proven["average"] == proven["train"] and proven["evaluate"] == set()


def test_bytes_that_only_shared_code_can_have_moved_are_named():
    assert run.find_moved(BEFORE, changed("train/trades", sha256="other")) == ["train/trades"]
    for values in ({"spec": "d"}, {"core": 2}):
        assert run.find_moved(BEFORE, changed("train/trades", sha256="other", **values)) == []


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A golden file of two hosts, and a micro-run that gives what it holds."""
    here, file = host_class(), tmp_path / "stages.json"
    every = {**BEFORE, "average": {**BEFORE["train"]}, "transfer": {**BEFORE["train"]}}
    file.write_text(json.dumps({here: every, "another": every}))
    monkeypatch.setattr(run, "GOLDEN", file)
    monkeypatch.setattr(shared, "ROOT", tmp_path)
    (tmp_path / "pipeline" / "share").mkdir(parents=True)

    def make(part=None, **values):
        given = every | {part: {**every[part], **values}} if part else every
        monkeypatch.setattr(run, "micro_run", lambda watch: given)
        run.main()
        return json.loads(file.read_text())

    return make


def test_moved_bytes_under_the_same_number_are_refused_and_nothing_is_written(place, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(SystemExit, match="^error: train/trades: .* add one to core.train in"):
        place("train/trades", sha256="other")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_a_host_whose_bytes_are_of_other_code_is_named_when_it_leaves(place, capsys):
    assert set(place()) == {host_class(), "another"}
    assert "left out" not in capsys.readouterr().out
    assert set(place("train", spec="other", sha256="other")) == {host_class()}
    assert "left out another, whose bytes are of other code: make golden there" in (
        capsys.readouterr().out
    )


def test_what_runs_is_heard_with_the_constants_that_it_names():
    names = set()
    with heard(names):
        ensemble.combine("vote", [ensemble.nn.Identity()])
    assert {"core/ensemble.py:combine", "core/ensemble.py:Combination"} <= names
    assert "core/ensemble.py:Vote" not in names  # no method of its own ran
    assert sys.getprofile() is None and true_probability.__name__ not in str(names)
    assert "core/ensemble.py:RULES" in with_constants(names)
