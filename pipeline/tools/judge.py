"""A checkpoint from elsewhere, judged: `python -m pipeline judge net.pt --arch resnet18`.

One row: clean accuracy, worst cases, flags, and a verdict in words. Several files, or one that
holds several networks, are an ensemble. The attacks are those of the project's scale; nothing is
trained. Killed, the same command goes on; done, it answers at once.
"""

import argparse
import json
import math
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch

from pipeline import adopt, download, evaluate, prepare, tabulate
from pipeline.errors import UserError
from pipeline.flags.evidence import Evidence
from pipeline.flags.evidence import read as read_record
from pipeline.flags.flags import Flag, flags, untrusted
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import foreign, models
from pipeline.loading.images import Split, load_split, subset
from pipeline.loading.layouts import AUTO, LAYOUTS, OWN
from pipeline.plan import Dataset, Plan, Table, frozen
from pipeline.plan.graph import outside
from pipeline.plan.graph.targets import Cell
from pipeline.plan.params import checks, reader, values
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.values import Entry
from pipeline.store.lease import hold
from pipeline.tools import judging

TOLERANCE = 0.01  # of --expect-clean, beside the error of judging a part of the images
BATCH = 250


def main(argv: list[str] | None) -> None:
    """Command line."""
    args = parse(argv)
    params = reader.read(frozen.params_path())
    task = judging.find_task(params, args.dataset, args.scale, args.eps, args.images)
    entries = Entries({**params, "scale": task.scale})
    check_words(args, entries)
    split = load_test(entries.dataset(task.dataset))

    entry = judging.find_entry(args, entries, split)
    where = device.select(entries.device, entries.threads)
    changed = judging.build_params(params, task, entry, len(split))
    folder = judging.lay_out(changed, entry, task)
    print(f"victims:\n  {judging.show_entry(entry, args.file, args.model)}")
    radius = float(task.factor * judging.STATED)
    print(f"attacks of scale {task.scale}; 8/255 becomes {radius:.4g}, other radii likewise")

    with chdir(folder):
        plan = Plan(reader.read(frozen.params_path()))
        table = plan.table(judging.TABLE)
        (cell,) = table.cells
        take_in(plan, cell)
        if args.expect_clean is not None:
            check_clean(plan, cell, args.expect_clean, entry, where)
        make_records(plan, cell, where)
        answer = judge(plan, table, cell)
        is_written = table.is_here()  # worthless numbers have no table
    print("\n".join(answer))
    if is_written:
        print(f"files: {folder}/results/{judging.TABLE}.md, .csv, .json, .png")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline judge", description=__doc__)
    parser.add_argument("file", nargs="+", help="a file of weights, or one a member")
    parser.add_argument("--arch", help="an entry of archs in params.yaml")
    parser.add_argument("--model", help="in place of an arch, your own: my_file.py:build")
    parser.add_argument("--dataset", default="cifar10", help="an entry of datasets (cifar10)")
    rules = [rule for rule in checks.COMBINATIONS if rule != "gated"]  # which needs its gate
    parser.add_argument("--combine", choices=rules, default="mean_prob", help="rule of an ensemble")
    parser.add_argument("--expect-clean", type=read_accuracy, help="as its authors print: 0.945")
    parser.add_argument("--mean", nargs="+", help="of the channels, of pixels in [0, 1]")
    parser.add_argument("--std", nargs="+", help="that the network divides by")
    parser.add_argument("--names", choices=[AUTO, OWN, *LAYOUTS], default=AUTO, help="layout")
    parser.add_argument("--part", default="", help="which network, where a file holds several")
    parser.add_argument("--drop", action="append", default=[], help="prefix of what is left out")
    parser.add_argument("--eps", help="radius, such as 8/255; else the scale's for the data set")
    parser.add_argument("--images", type=int, help="how many test images")
    parser.add_argument("--scale", help="whose attacks; else the one of params.yaml")
    args = parser.parse_args(argv)
    if bool(args.arch) == bool(args.model):
        parser.error("give one of --arch and --model, and not both")
    if args.model and args.names != AUTO:
        parser.error("--names is of an arch's tensors; a --model has its file's own")
    if args.images is not None and args.images < 1:
        parser.error("--images: write 1 or more")
    return args


def read_accuracy(text: str) -> float:
    """An accuracy between 0 and 1."""
    value = float(values.fraction(text, "--expect-clean"))
    if not 0 <= value <= 1:
        raise UserError(f"--expect-clean: {text} is not between 0 and 1; write 0.945 for 94.5 %")
    return value


def check_words(args: argparse.Namespace, entries: Entries) -> None:
    """Raise UserError for what is known to be wrong before a data set is fetched for it."""
    own = [args.model.partition(":")[0]] if args.model else []
    for file in (*args.file, *own):
        if not Path(file).is_file():
            raise UserError(f"{file} is missing; name a file that is there")
    if args.model:
        outside.describe_module(args.model, "--model")
    if args.arch:
        values.find(entries.section("archs"), "--arch", args.arch)
    if not {"core", "adaptive"} & entries.section("suites").keys():
        raise UserError("params.yaml: suites: has neither core nor adaptive to judge by; add one")
    for key in ("mean", "std"):
        judging.read_numbers(key, args)
    if not entries.dataset(args.dataset).is_here():
        for file in args.file:
            foreign.read(Path(file), args.part)


def load_test(dataset: Dataset) -> Split:
    """The test images, fetched and prepared where they are not."""
    if not dataset.is_here():
        if not all(source.exists() for source in dataset.sources):
            download.main([dataset.name])
        prepare.main([dataset.name])
    return load_split(dataset, "test", torch.device("cpu"))


def take_in(plan: Plan, cell: Cell) -> None:
    """Adopt the files where they are not yet."""
    assert cell.victim is not None
    for run in [plan.run(element.run) for element in cell.victim.elements]:
        with hold(f"runs/{run.id}"):
            if not run.is_here():
                adopt.adopt(plan, run)


def check_clean(plan: Plan, cell: Cell, expected: float, entry: Entry, where: torch.device) -> None:
    """Raise UserError unless the clean accuracy is the expected one, before any attack.

    Of a part of the test images by more than a point and two standard errors.
    """
    assert cell.victim is not None
    record = next(iter(cell.records.values()))
    split = load_split(cell.victim.dataset, record.split, where)
    rows = split.labels.new_tensor(subset(record.images, len(split)))
    victim = models.load_victim(plan, cell.victim, split, where)
    right = 0.0
    with torch.no_grad():
        for part in torch.split(rows, BATCH):
            scores, logits_KBC = victim.heard(split.floats(part))
            # The expected accuracy over the draw, as in the record, instead of one lucky draw.
            said_KB = (logits_KBC if victim.random else scores[None]).argmax(-1)
            right += float((said_KB == split.labels[part]).float().mean(0).sum())

    clean, left_out = right / len(rows), 1 - len(rows) / len(split)
    allowed = TOLERANCE + 2 * math.sqrt(expected * (1 - expected) * left_out / len(rows))
    if abs(clean - expected) > allowed:
        raise UserError(
            f"clean accuracy is {clean:.3f} on {len(rows)} images, {expected:.3f} is expected: "
            f"another mean ({entry['mean']}), std ({entry['std']}), arch or data set; not attacked"
        )


def make_records(plan: Plan, cell: Cell, where: torch.device) -> None:
    """Evaluate under the suites that are not yet there, one after the other."""
    for record in cell.records.values():
        with hold(f"records/{record.id}"):
            if not record.is_here():
                evaluate.evaluate(plan, record, where)


def judge(plan: Plan, table: Table, cell: Cell) -> list[str]:
    """Numbers, flags and the verdict, a line each; the table's files are written."""
    read = [(read_record(record), list(record.attacks)) for record in cell.records.values()]
    evidence = Evidence(read)
    fired = flags(evidence)
    lines = [f"flag {flag.check}: {flag.text}" for flag in fired]
    worthless = [f"{flag.check}: {flag.text}" for flag in fired if flag.fails]
    if worthless:
        return [*lines, f"verdict: not trusted: {worthless[0]}; its numbers are worthless"]

    if not table.is_here():
        tabulate.tabulate(plan, table, partial=False)
    whole = json.loads(table.path.with_suffix(".json").read_text(encoding="utf-8"))
    (row,) = whole["rows"].values()
    numbers = [
        f"{column} {_spell_percent(row[column])}"
        for column in table.columns
        if _is_accuracy(row, column)
    ]
    doubts = [f for f in fired if f.check in untrusted(evidence, fired)]
    return [", ".join(numbers), *lines, f"verdict: {find_verdict(row, doubts)}"]


def find_verdict(row: dict[str, Any], doubts: list[Flag]) -> str:
    """What the numbers allow to say, in words."""
    worst = [column for column in row if column.endswith("_worst") and _is_accuracy(row, column)]
    last = row[worst[-1]]
    if last["mean"] == 0:  # which no doubt about the attacks can lower
        return f"not robust: none of {last['n']} images is answered rightly under all these attacks"
    if doubts:
        return (
            f"not trusted: {doubts[0].check}: {doubts[0].text}; its worst cases are upper bounds "
            "that rank with nothing"
        )

    known = "the flags above do not unrank it" if row["flags"] else "no flag doubts it"
    text = f"{known}; of {last['n']} images at most {_spell_percent(last)} %"
    text += " are answered rightly under all these attacks"
    if len(worst) > 1:
        gained = 100 * (row[worst[0]]["mean"] - last["mean"])
        text += f" ({gained:.1f} points of loss are the adaptive ones' alone)"
    return f"{text}; transfer from other networks was not tried"


def _is_accuracy(row: dict[str, Any], column: str) -> bool:
    """Whether a column of the row is an accuracy."""
    return isinstance(row.get(column), dict) and "mean" in row[column]


def _spell_percent(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


if __name__ == "__main__":
    report(main)
