"""Damaged lines of the manifest: each is refused in one line that names it, or changes nothing."""

import json
import random
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.store import manifest

LINES = [
    manifest.Line(
        artifact=f"results/runs/digits-tiny-pgd_at-s{seed}-0123456789",
        sha256={"weights.safetensors": f"{seed}" * 64, "best.safetensors": "b" * 64},
        bytes=1234,
        rests_on={},
        plan="0" * 10,
        date="2026-11-20T12:00:00+00:00",
        host="cpu x86_64",
        versions={"torch": "2.13.0"},
        seconds=1.5,
    )
    for seed in range(3)
]
TEXT = "".join(line.text() + "\n" for line in LINES)
TEXTS = dict.fromkeys(["plan", "host"], ["x"])
MAPPINGS = {"rests_on": [{}], "versions": [{}]}
FITTING = {**TEXTS, **MAPPINGS, "bytes": [3], "seconds": [3]}
VALUES = [None, True, 3, -1.5, "x", [], ["a"], {}, {"a": 1}, {"a": None}]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest.MANIFEST.parent.mkdir(parents=True)


def outcome(content):
    """Everything a command asks of the manifest; whether it was refused."""
    manifest.MANIFEST.write_bytes(content)
    weights = Path(LINES[0].artifact, "weights.safetensors")
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"other")
    try:
        listed = manifest.read()
        manifest.weights_of(weights.parent.name, listed)
        manifest.check_rests_on(weights, {str(weights.parent): "1" * 64})
        return "read"
    except UserError as error:
        text = str(error)
        assert len(text) < 500
        assert len(text.splitlines()) == 1 and text.startswith(("results/manifest", "results/runs"))
        return "refused"


def test_the_manifest_itself_is_read():
    assert manifest.parse(TEXT) == LINES
    manifest.MANIFEST.write_text(TEXT)
    assert list(manifest.read().values()) == LINES


@pytest.mark.parametrize("key", [*json.loads(LINES[0].text()), "new"])
def test_a_value_of_another_type_or_a_key_too_many_or_few_is_refused(key):
    whole = json.loads(LINES[0].text())
    for value in VALUES:
        refused = outcome(json.dumps(whole | {key: value}).encode()) == "refused"
        assert refused or value in FITTING.get(key, []), (key, value)
    del whole[next(iter(whole)) if key == "new" else key]
    assert outcome(json.dumps(whole).encode()) == "refused"


def test_a_thousand_damaged_manifests_are_read_or_refused_in_one_line():
    draw, seen = random.Random("manifest"), set()
    for _ in range(1000):
        content = bytearray(TEXT.encode())
        for _ in range(draw.choice([1, 1, 3])):
            place = draw.randrange(len(content))
            if draw.random() < 0.5:
                content[place] ^= 1 << draw.randrange(8)
            else:
                del content[place : place + draw.randrange(1, 200)]
        seen.add(outcome(bytes(content)))
    assert seen == {"read", "refused"}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("artifact", "results/runs/../../x", "names no artifact"),
        ("artifact", "data/reported/0123456789", "names no artifact"),
        ("sha256", {"../x": "a" * 64}, "of a file elsewhere"),
        ("sha256", {"weights.safetensors": "a"}, "no sha256"),
        ("rests_on", {"../x": "a" * 64}, "rests_on names no artifact"),
        ("bytes", -1, "out of range"),
        ("seconds", float("nan"), "out of range"),
        ("date", "", "no time with its zone"),
        ("date", "2026-11-20", "no time with its zone"),
    ],
)
def test_what_a_line_says_is_checked_before_a_path_is_made_of_it(key, value, why):
    text = TEXT + json.dumps(json.loads(LINES[0].text()) | {key: value}) + "\n"
    with pytest.raises(UserError, match=rf"manifest.jsonl:4: .*{why}"):
        manifest.parse(text)


def test_a_line_nested_deeper_than_python_reads_is_refused_by_its_number():
    with pytest.raises(UserError, match=r"manifest.jsonl:4: is no line"):
        manifest.parse(TEXT + "[" * 100_000 + "\n")


def rests(**changed):
    return manifest.Line(**{**json.loads(LINES[0].text()), **changed})


def test_who_rests_on_an_artifact_that_counts_no_more_counts_no_more():
    """A merge that drops a transfer set drops its verdicts; what nobody recorded is rested on."""
    run = LINES[0]
    made = rests(artifact="results/transfer/t-0.safetensors", rests_on={run.artifact: "c" * 64})
    images = {made.artifact: next(iter(made.sha256.values())), "results/runs/unrecorded": "d" * 64}
    judged = rests(artifact="results/records/v/black-0.npz", rests_on=images)
    assert list(manifest.without_orphans(manifest.winners([run, made, judged]))) == [run.artifact]
    well = rests(artifact=made.artifact, rests_on={run.artifact: "b" * 64})
    kept = manifest.without_orphans(manifest.winners([run, well, judged]))
    assert sorted(kept) == sorted([run.artifact, made.artifact, judged.artifact])
