"""Every kind of file, damaged in every way of a list: refused in one line, made again, or equal."""

import json
import shutil
from contextlib import chdir
from functools import cache
from pathlib import Path

import damage_lab as lab
import pytest
import torch

from pipeline.errors import UserError

COPY = Path("work/here")


def weights_with(change):
    def changed(found, _):
        name = next(n for n in found if n.endswith("weight"))
        found[name] = change(found[name])

    return lab.tensors(changed)


def about_with(key, value):
    return lab.tensors(lambda found, about: (found, {**about, key: value}))


WEIGHTS = {
    "another weight": weights_with(lambda value: value + 1),
    "no number": weights_with(lambda value: value * torch.nan),
    "another shape": weights_with(lambda value: value[:1]),
    "another type": weights_with(lambda value: value.double()),
    "a tensor less": lab.tensors(lambda found, about: (dict([*found.items()][1:]), about)),
}
IMAGES = {
    "labels permuted": lab.tensors(
        lambda found, about: ({**found, "labels": found["labels"].roll(1)}, about)
    ),
    "an image less": lab.tensors(
        lambda found, about: ({k: v[:-1] for k, v in found.items()}, about)
    ),
    "a label less": lab.tensors(
        lambda found, about: ({**found, "labels": found["labels"][:-1]}, about)
    ),
    "another class": lab.tensors(
        lambda found, about: ({**found, "labels": found["labels"] + 5}, about)
    ),
    "without labels": lab.tensors(lambda found, about: ({"images": found["images"]}, about)),
    "floats": lab.tensors(
        lambda found, about: ({**found, "images": found["images"].float()}, about)
    ),
    "another digest": about_with("digest", "0123456789"),
    "another mean": about_with("mean", "[0.1]"),
    "means of channels": about_with("mean", "[0.1, 0.2]"),
    "no mean": about_with("mean", "{"),
    "without classes": lab.tensors(lambda found, about: (found, {"digest": about["digest"]})),
}
SET = {
    "other images": lab.tensors(
        lambda found, about: ({**found, "images": found["images"] / 2}, about)
    ),
    "other rows": lab.tensors(lambda found, about: ({**found, "ids": found["ids"].roll(1)}, about)),
    "an image less": lab.tensors(
        lambda found, about: ({k: v[:-1] for k, v in found.items()}, about)
    ),
    "no numbers": lab.tensors(
        lambda found, about: ({**found, "images": found["images"] * torch.nan}, about)
    ),
    "another spec": about_with("spec", "{}"),
    "no spec": about_with("spec", "["),
    "other weights": about_with("weights", json.dumps({"a": "0" * 64})),
    "weights no mapping": about_with("weights", "[]"),
    "without images": lab.tensors(lambda found, about: ({"ids": found["ids"]}, about)),
    "without weights": lab.tensors(lambda found, about: (found, {"spec": about["spec"]})),
}
META = {"spec": {}, "victim": "v", "suite": "s", "weights": {}, "cost": {}}
RECORD = {
    "a verdict": lab.flipped("pgd10/right"),
    "a verdict cut": lab.cut_by_one("pgd10/right"),
    "a label cut": lab.cut_by_one("labels"),
    "verdicts lost": lab.lacking("pgd10/right"),
    "labels lost": lab.lacking("labels"),
    "meta lost": lab.lacking("meta"),
    "verdicts of 5": lab.replaced("pgd10/right", [5.0] * 30),
    "verdicts of texts": lab.replaced("pgd10/right", ["a"] * 30),
    "meta a list": lab.replaced("meta", "[]"),
    "meta no JSON": lab.replaced("meta", "{"),
    "meta nested": lab.replaced("meta", "[" * 100_000),
    "meta of another": lab.replaced("meta", json.dumps(META)),
    "meta without weights": lab.replaced("meta", json.dumps({**META, "weights": None})),
    "sets a list": lab.replaced("meta", json.dumps({**META, "sets": []})),
}
RUN = {
    "a FLOP more": lab.as_json(lambda said: {**said, "flops": said["flops"] + 1}),
    "FLOPs below 0": lab.with_value("flops", -1),
    "FLOPs a text": lab.with_value("flops", "1"),
    "another run": lab.with_value("id", "digits-x-s0-0123456789"),
    "another spec": lab.with_value("spec", {"stage": "train"}),
    "spec a list": lab.with_value("spec", []),
    **{f"without {key}": lab.without(key) for key in ("id", "spec", "flops", "inherited")},
}
TIMES = {
    "seconds a text": lab.with_value("seconds", "long"),
    "seconds below 0": lab.with_value("seconds", -5),
    "without sums": lab.without("sha256"),
    "sums a list": lab.with_value("sha256", []),
    "sums of numbers": lab.as_json(
        lambda said: {**said, "sha256": dict.fromkeys(said["sha256"], 5)}
    ),
    "other sums": lab.as_json(
        lambda said: {**said, "sha256": dict.fromkeys(said["sha256"], "0" * 64)}
    ),
}
RECEIPT = {
    "a number": lab.as_json(lambda said: {**said, "rows": {}, "title": "another"}),
    "another plan": lab.as_json(
        lambda said: said | {"receipt": said["receipt"] | {"plan": "0" * 10}}
    ),
    "no sums": lab.as_json(lambda said: said | {"receipt": said["receipt"] | {"files": {}}}),
    "without it": lab.without("receipt"),
    "it is a list": lab.with_value("receipt", []),
}
VERIFIED = {
    "no rows": lambda _: b"[]",
    "a row without sums": lab.as_json(
        lambda rows: [{k: r[k] for k in ("path", "files", "bytes")} for r in rows]
    ),
    "another sum": lab.as_json(lambda rows: [{**r, "sha256": "0" * 64} for r in rows]),
    "a file elsewhere": lab.as_json(lambda rows: [{**r, "path": "../x"} for r in rows]),
    "other bytes": lab.as_json(lambda rows: [{**r, "bytes": 1} for r in rows]),
    "no path": lab.as_json(lambda rows: [{**r, "path": 5} for r in rows]),
}
INDEX = {
    "an epoch less": lab.as_json(
        lambda said: said | {"snapshots": dict([*said["snapshots"].items()][1:])}
    ),
    "a file elsewhere": lab.as_json(
        lambda said: said | {"snapshots": {**said["snapshots"], "../x": "0" * 64}}
    ),
    "other weights": lab.with_value("weights", "0" * 64),
    "without weights": lab.without("weights"),
    "snapshots a list": lab.with_value("snapshots", []),
}
STATE = {
    "epoch 99": lab.state(lambda found: found | {"epoch": 99}),
    "epoch 0": lab.state(lambda found: found | {"epoch": 0}),
    "epoch a text": lab.state(lambda found: found | {"epoch": "2"}),
    "a batch that is none": lab.state(lambda found: found | {"done": 99}),
    "a history of another": lab.state(lambda found: found | {"history": []}),
    "no networks": lab.state(lambda found: found | {"networks": []}),
    "another shape": lab.state(
        lambda found: (
            found
            | {
                "networks": [
                    {k: v[:1] if v.ndim else v for k, v in n.items()} for n in found["networks"]
                ]
            }
        )
    ),
    "another optimiser": lab.state(lambda found: found | {"optimisers": [{}]}),
    "loss a text": lab.state(lambda found: found | {"loss": "x"}),
    "best of another": lab.state(lambda found: found | {"best": (0.5, {})}),
    **{
        f"without {key}": lab.state(lambda found, key=key: {k: found[k] for k in found if k != key})
        for key in ("epoch", "done", "loss", "networks", "optimisers", "best", "flops", "history")
    },
    "no mapping": lab.state(lambda found: [1]),
    "sum alone": lab.behind_sum(lambda _: b""),
}
PART = {
    "a verdict lost": lab.behind_sum(lab.lacking("right")),
    "sizes lost": lab.behind_sum(lab.lacking("linf")),
    "a verdict cut": lab.behind_sum(lab.cut_by_one("right")),
    "verdicts of 5": lab.behind_sum(lab.replaced("right", [5.0] * 30)),
    "no archive": lab.behind_sum(lambda _: b"[]"),
}
MEMO = {
    "sums of numbers": lab.behind(lambda said: {k: [v[0], 5] for k, v in said.items()}),
    "no pairs": lab.behind(lambda said: dict.fromkeys(said, 5)),
    "no mapping": lab.behind(lambda said: [5]),
}
NUMBER = {"another number": lambda content: content.replace(b"0", b"1")}

# what is damaged -> its file, its own ways, the jobs that read it
KINDS = {
    "raw file": (lambda p: p.dataset.raw / "digits.csv.gz", {"a label": lab.relabel}, "prepare"),
    "verified.json": (lambda p: p.dataset.raw / "verified.json", VERIFIED, "prepare"),
    "test images": (lambda p: p.dataset.folder / "test.safetensors", IMAGES, "evaluate record"),
    "training images": (lambda p: p.dataset.folder / "train.safetensors", IMAGES, "train record"),
    "times of data": (lambda p: p.dataset.folder / "prepare.time.json", TIMES, "evaluate record"),
    "weights": (lambda p: p.training.weights, WEIGHTS, "evaluate record average"),
    "best weights": (lambda p: p.training.checkpoint("best"), WEIGHTS, "record"),
    "run.json": (lambda p: p.training.folder / "run.json", RUN, "evaluate average record"),
    "run.json of an average": (lambda p: p.average.folder / "run.json", RUN, "record"),
    "run.time.json": (lambda p: p.training.folder / "run.time.json", TIMES, "evaluate record"),
    "history.csv": (lambda p: p.training.folder / "history.csv", NUMBER, "record"),
    "index of snapshots": (lambda p: p.training.snapshots / "from2.json", INDEX, "average"),
    "snapshot": (lambda p: p.training.snapshots / "0002.safetensors", WEIGHTS, "average"),
    "transfer set": (lambda p: p.set.path, SET, "judge record"),
    "record": (lambda p: p.record.path, RECORD, "tabulate figure record"),
    "times of a record": (
        lambda p: p.record.path.with_suffix(".time.json"),
        TIMES,
        "tabulate record",
    ),
    "table's csv": (lambda p: p.table.path, NUMBER, "look"),
    "table's text": (lambda p: p.table.path.with_suffix(".md"), NUMBER, "look"),
    "table's picture": (lambda p: p.table.path.with_suffix(".png"), {}, "look"),
    "table's LaTeX": (lambda p: p.table.path.with_suffix(".tex"), NUMBER, "look"),
    "table's metrics": (lambda p: next(iter(p.table.metrics.values())), NUMBER, "look"),
    "table's receipt": (lambda p: p.table.path.with_suffix(".json"), RECEIPT, "look"),
    "figure": (lambda p: p.figure.path, {}, "look"),
    "figure's csv": (lambda p: p.figure.path.with_suffix(".csv"), NUMBER, "look"),
    "figure's receipt": (lambda p: p.figure.path.with_suffix(".json"), RECEIPT, "look"),
    "resume state": (lambda p: p.training.state, STATE, "train"),
    "part of a record": (lambda p: part_of(p), PART, "evaluate"),
    "sums remembered": (lambda p: Path("work/recorded.sums"), MEMO, "evaluate record look"),
}


def part_of(project):
    (found,) = Path("work/records", project.record.id).rglob("pgd10-*.npz")
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / "copy"


def enter(place, source):
    """A fresh copy of the built project, as a new process finds it."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)
    lab.forget()


@cache
def expected(job, source, place):
    """What a job makes of undamaged files."""
    enter(place, source)
    with chdir(place):
        return lab.run(job, lab.project())


def check(job, file, place, source, damage):
    """Run a job over a damaged file; returns a fault, or nothing."""
    said = expected(job, source, place)
    enter(place, source)
    with chdir(place):
        content = file(lab.project()).read_bytes()
        path, harmed = file(lab.project()), damage(content)
        path.write_bytes(harmed)
        try:
            found = lab.run(job, lab.project())
        except UserError as error:
            return wrong_words(str(error), path)
        except Exception as error:  # what would be a trace
            return f"trace: {type(error).__name__}: {error}"
        differ = [name for name in found if found[name] != said.get(name)]
        return f"{ANOTHER} {differ[0]}" if differ and harmed != content else ""


def wrong_words(text, path):
    """What is amiss with a refusal: it is one line, not long, and names the file."""
    if len(text.splitlines()) != 1 or len(text) > 700:
        return f"no line: {text[:300]!r}"
    names = {path.as_posix(), path.parent.as_posix()}
    if not any(name in text for name in names):
        return f"names it not: {text}"
    return ""


SOURCES = (lab.recorded, lab.built)
# read alike whether the manifest lists the rest or not
ANOTHER = "another"  # begins what is said of a result that came out otherwise
APART = ("table", "figure", "part", "sums", "resume")
UNSHARED = {name for name in KINDS if name.startswith(APART)}
CASES = [(name, job) for name, (_, _, jobs) in KINDS.items() for job in jobs.split()]


@pytest.mark.parametrize(("name", "job"), CASES, ids=[f"{n}, {j}" for n, j in CASES])
def test_a_damaged_file_is_refused_in_one_line_or_changes_nothing(name, job, place):
    file, own, _ = KINDS[name]
    faults = {}
    for source in SOURCES[name in UNSHARED :]:
        for how, damage in {**lab.BLIND, **own}.items():
            fault = check(job, file, place, source(), damage)
            if fault:
                faults[f"{source.__name__}, {how}"] = fault
    assert not faults, "\n".join(f"{how}: {fault}" for how, fault in faults.items())


FORMED = [(name, job) for name, job in CASES if "time" not in name and name not in UNSHARED]


@pytest.mark.parametrize(("name", "job"), FORMED, ids=[f"{n}, {j}" for n, j in FORMED])
def test_a_file_that_nobody_summed_is_refused_in_one_line_or_read(name, job, place):
    """It may be another whole file, and count as such; it never ends in a trace."""
    file, own, _ = KINDS[name]
    found = {how: check(job, file, place, lab.bare(), damage) for how, damage in own.items()}
    faults = {how: f for how, f in found.items() if f and not f.startswith(ANOTHER)}
    assert not faults, "\n".join(f"{how}: {fault}" for how, fault in faults.items())
