"""A tiny built project, ways to damage each of its files, and the jobs that read them.

A job says what it made (sums by file), so that a damaged input either is refused in one line,
or changes nothing.
"""

import gzip
import hashlib
import io
import json
import shutil
from contextlib import chdir
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import sharing_origin as home
import tiny
import torch

from pipeline import average, download, evaluate, figure, prepare, tabulate, train, transfer
from pipeline.errors import Interrupted
from pipeline.plan import Plan, frozen
from pipeline.plan.params.entries import Setting
from pipeline.share import record, writer
from pipeline.share.finished import on_disk
from pipeline.share.pools import write_manifest
from pipeline.store import manifest, receipts, scratch, sums
from pipeline.store.files import load_safetensors, save_safetensors, sha256_of
from pipeline.store.records import pack, unpack
from pipeline.training.trainer import Trainer

SETTING = Setting("cifar10", "resnet20", "unified", 1, 0)


def asked():
    """A training, its average, a transfer set, three suites, a table and a figure of them."""
    found = tiny.params(epochs=3, train_images=64)
    found["datasets"]["digits"]["validation"] = 20
    found["victims"]["other"] = {"of": "standard", "members": 1, "seed": 90}
    found["suites"] = {
        "unified": {"attacks": ["fgsm", "pgd10"]},
        "black": {"attacks": ["mpgd"], "surrogates": ["other"]},
    }
    found["scales"]["demo"]["attacks"] |= {"pgd10": {"steps": 2}, "mpgd": {"steps": 2}}
    table = found["tables"]["table1"]
    table |= {"rows": ["pgd_at", "meat"], "suites": ["unified", "black"], "members": [1]}
    table |= {"columns": ["clean", "pgd10", "other_mpgd", "train_flops"], "reference": "none"}
    shown = {"rows": ["pgd_at"], "suites": ["unified"], "columns": ["clean", "pgd10"]}
    shown |= {"kind": "histogram", "title": "Margins", "bins": 8, "table": "table1"}
    found["figures"] = {"margins": shown | {"where": {"seed": 0}}}
    return found


class Project:
    """The plan, and what of it each kind of file belongs to."""

    def __init__(self):
        self.plan = Plan(asked())
        self.table, self.figure = self.plan.table("table1"), self.plan.figure("margins")
        runs = self.plan.graph.runs.values()
        (self.training,) = [r for r in runs if r.entry == "pgd_at"]
        (self.average,) = [r for r in runs if r.stage == "average"]
        (self.set,) = self.plan.graph.sets.values()
        (self.surrogate,) = [self.plan.run(e.run) for e in self.set.surrogate.elements]
        (cell,) = [c for c in self.table.cells if c.row == "pgd_at"]
        self.record, self.judged = cell.records["unified"], cell.records["black"]
        self.dataset = self.plan.dataset("digits")


@cache
def project():
    """Of every copy: paths are relative."""
    with chdir(built()):
        return Project()


@cache
def built():
    """Everything made, nothing recorded; work that goes on lies there too."""
    folder = Path(mkdtemp(dir=home.world()))
    with chdir(folder):
        writer.write(folder, asked())
        download.main(["digits"])
        prepare.main(["digits"])
        lab = Project()
        make_all(lab)
        leave_work(lab)
        sums.remember()
    return folder


def make_all(lab):
    train.train(lab.plan, lab.training, tiny.CPU, lab.plan.snapshots_from(lab.training.id))
    train.train(lab.plan, lab.surrogate, tiny.CPU, None)
    average.make_average(lab.plan, lab.average, tiny.CPU)
    transfer.craft(lab.plan, lab.set, tiny.CPU)
    for made in lab.plan.needs(lab.table)[0]:
        evaluate.evaluate(lab.plan, made, tiny.CPU)
    tabulate.tabulate(lab.plan, lab.table, False)
    figure.draw(lab.plan, lab.figure)


def leave_work(lab):
    """A resume state of the training, and the verdicts under one attack of a record."""
    trainer = Trainer(lab.plan, lab.training, tiny.CPU, None)
    trainer.method = tiny.StopAfter(trainer.method, 3)  # in the second epoch
    try:
        trainer.fit()
    except Interrupted:
        assert lab.training.state.exists()
    whole = lab.record.path.read_bytes()
    lab.record.path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(frozen.VARIABLE, "")  # under a workflow the parts stay
        evaluate.evaluate(lab.plan, lab.record, tiny.CPU)
    assert lab.record.path.read_bytes() == whole


@cache
def recorded():
    """The same with a manifest that lists all of it."""
    folder = Path(mkdtemp(dir=home.world())) / "recorded"
    shutil.copytree(built(), folder)
    with chdir(folder):
        forget()
        recorder = record.Recorder(project().plan)
        for artifact in on_disk():
            recorder.look(artifact)
        assert not recorder.problems
        write_manifest([line for _, line in recorder.added])
    return folder


@cache
def bare():
    """Nothing recorded, and no sums beside anything: only its form tells a file that is none."""
    folder = Path(mkdtemp(dir=home.world())) / "bare"
    shutil.copytree(built(), folder)
    for path in folder.rglob("*.time.json"):
        path.unlink()
    return folder


def forget():
    """Let this process know of files only what the next one would."""
    for known in (sums._memo, receipts._read, manifest._read):
        known.cache_clear()


# ---- jobs: each makes its output from what lies there


def make_prepare(lab):
    prepare.main(["digits"])


def make_train(lab):
    train.train(lab.plan, lab.training, tiny.CPU, None)


def make_average(lab):
    average.make_average(lab.plan, lab.average, tiny.CPU)


def make_craft(lab):
    transfer.craft(lab.plan, lab.set, tiny.CPU)


def make_evaluate(lab):
    evaluate.evaluate(lab.plan, lab.record, tiny.CPU)


def make_judge(lab):
    evaluate.evaluate(lab.plan, lab.judged, tiny.CPU)


DRAW = tabulate.dots.draw


@cache
def drawn(details, title):
    """A picture is a function of its numbers (tests/figures): each is drawn once."""
    return DRAW(json.loads(details), title)


def make_tabulate(lab):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabulate.dots, "draw", lambda numbers, t: drawn(json.dumps(numbers), t))
        tabulate.tabulate(lab.plan, lab.table, False)


def make_figure(lab):
    figure.draw(lab.plan, lab.figure)


MADE = {
    "prepare": "dataset",
    "train": "training",
    "average": "average",
    "craft": "set",
    "evaluate": "record",
    "judge": "judged",
    "tabulate": "table",
    "figure": "figure",
}


def outputs_of(lab, job):
    return getattr(lab, MADE[job]).outputs


def sums_of(paths):
    return {path.as_posix(): sha256_of(path) for path in paths}


def run(job, lab):
    """Do a job anew, and say what came out: sums by file."""
    if job in ("look", "record"):
        return {"look": look, "record": remember}[job](lab)
    for path in outputs_of(lab, job):
        path.unlink()
    globals()[f"make_{job}"](lab)
    return sums_of(outputs_of(lab, job))


def look(lab):
    """What the workflow takes for today's, so that it makes nothing of it again."""
    kept = [target for target in (lab.table, lab.figure) if target.is_here()]
    return sums_of(file for target in kept for file in target.outputs)


def remember(lab):
    """What would be remembered; a refusal is raised as the command says it."""
    recorder = record.Recorder(lab.plan)
    found = {}
    for artifact in on_disk():
        recorder.look(artifact)
        found[artifact.path.as_posix()] = json.dumps(artifact.sums(), sort_keys=True)
    if recorder.problems:
        raise record.UserError("; ".join(recorder.problems))
    return found


# ---- damage


def truncate(content):
    return content[: len(content) // 2]


def flip(place):
    def one_bit(content):
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return one_bit


BLIND = {
    "truncated": truncate,
    "shorter by a byte": lambda content: content[:-1],
    "longer by a byte": lambda content: content + b"\n",
    "empty": lambda content: b"",
    "a list": lambda content: b"[]",
    "a mapping": lambda content: b"{}",
    "a text": lambda content: b'"x"',
    "a number": lambda content: b"5",
    "nothing known": lambda content: b"null",
    "no text": lambda content: b"\xff\xfe\x00" * 9,
    "nested": lambda content: b"[" * 100_000,
    **{f"a bit at {place}": flip(place) for place in (0, 0.03, 0.2, 0.5, 0.8, 1)},
}


def as_json(change):
    def damage(content):
        said = json.loads(content)
        return (json.dumps(change(said), indent=1, sort_keys=True) + "\n").encode()

    return damage


def without(key):
    return as_json(lambda said: {k: v for k, v in said.items() if k != key})


def with_value(key, value):
    return as_json(lambda said: {**said, key: value})


def tensors(change):
    """A whole safetensors file of other tensors or metadata, with a checksum that holds."""

    def damage(content):
        with chdir(mkdtemp(dir=home.world())):
            Path("t").write_bytes(content)
            found, about = load_safetensors(Path("t"), "")
            changed = change(found, about)
            save_safetensors(Path("t"), *(changed or (found, about)))
            return Path("t").read_bytes()

    return damage


def arrays(change):
    """A whole record of other arrays."""

    def damage(content):
        found = unpack(content)
        return pack(change(found) or found)

    return damage


def behind_sum(change):
    """Scratch of another content, with a checksum that holds."""

    def damage(content):
        content = change(content[scratch.DIGEST :])
        return hashlib.sha256(content).digest() + content

    return damage


def behind(change):
    """Scratch of another JSON, with a checksum that holds."""
    return behind_sum(lambda content: json.dumps(change(json.loads(content))).encode())


def state(change):
    """A resume state of another content, with a checksum that holds."""

    def damage(content):
        found = torch.load(io.BytesIO(content), weights_only=True)
        buffer = io.BytesIO()
        torch.save(change(found) or found, buffer)
        return buffer.getvalue()

    return behind_sum(damage)


def relabel(content):
    """The raw digits with another label for the first scan."""
    first, _, rest = gzip.decompress(content).decode().partition("\n")
    pixels, _, label = first.rpartition(",")
    return gzip.compress(f"{pixels},{(int(label) + 1) % 10}\n{rest}".encode(), mtime=0)


def flipped(name):
    """One verdict of a record set right or wrong."""

    def change(found):
        found[name] = found[name].copy()
        found[name][0] = 1 - found[name][0]

    return arrays(change)


def cut_by_one(name):
    return arrays(lambda found: {**found, name: found[name][:-1]})


def lacking(name):
    return arrays(lambda found: {k: v for k, v in found.items() if k != name})


def replaced(name, value):
    return arrays(lambda found: {**found, name: np.array(value)})
