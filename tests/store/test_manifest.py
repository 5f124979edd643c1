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
TEXTS = dict.fromkeys(["artifact", "plan", "date", "host"], ["x"])
MAPPINGS = dict.fromkeys(["sha256", "rests_on", "versions"], [{}])
FITTING = {**TEXTS, **MAPPINGS, "bytes": [3], "seconds": [3, -1.5]}
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
        manifest.check_rests_on(weights, {weights.parent.name: "1" * 64})
        return "read"
    except UserError as error:
        text = str(error)
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
