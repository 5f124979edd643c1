"""How often a red flag fires by chance: `python -m bench.false_alarms [TABLE] [REPETITIONS]`.

Needs a finished table. Its honest rows are the population: n of their images are drawn again and
again, with replacement and the same for every suite. What a flag says of a row with unlimited
images (the row's own, a hundred times over) is the truth: a false alarm fires where it is silent,
a miss is silent where it fires.
"""

import argparse
import sys
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.flags.evidence import Evidence
from pipeline.flags.flags import flags
from pipeline.job.report import report
from pipeline.plan import Record, load_plan
from pipeline.store.records import Arrays, read_record

IMAGES = (200, 1_000, 10_000)
COPIES = 100  # of all images: what the flags say of these nets, whatever the sample
PLANTED = {"overconfident"}  # rows that are meant to raise flags

Rows = list[tuple[Arrays, list[tuple[str, Any]]]]


def draw(rows: Rows, picked: NDArray[np.int64]) -> Rows:
    """The same images of every record, as new ones; what has no axis of images is kept."""
    images = len(rows[0][0]["ids"])
    drawn = []
    for arrays, attacks in rows:
        taken = {k: v[picked] if v.shape[:1] == (images,) else v for k, v in arrays.items()}
        taken["ids"] = np.arange(len(picked))  # C19 counts an image that stands twice
        drawn.append((taken, attacks))
    return drawn


def fired(rows: Rows) -> set[str]:
    """The checks that fire on one victim's records."""
    return {flag.check for flag in flags(Evidence(rows))}


def load(records: dict[str, Record]) -> Rows:
    """A victim's records; exits where one is not there."""
    missing = [r for r in records.values() if not r.path.exists()]
    if missing:
        sys.exit(f"error: {missing[0].path} is missing: make the table first")
    return [
        (read_record(r.path, [name for name, _ in r.attacks]), list(r.attacks))
        for r in records.values()
    ]


def main() -> None:
    """A row for every flag that fires at all: false alarms and misses, by number of images."""
    parser = argparse.ArgumentParser(prog="python -m bench.false_alarms")
    parser.add_argument("table", nargs="?", default="table1")
    parser.add_argument("repetitions", nargs="?", type=int, default=200)
    args = parser.parse_args()
    cells = [cell for cell in load_plan().table(args.table).cells if cell.row not in PLANTED]

    alarms: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    misses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        rows, generator = load(cell.records), np.random.default_rng(0)
        images = len(rows[0][0]["ids"])
        truth = fired(draw(rows, np.tile(np.arange(images), COPIES)))
        for count in IMAGES:
            times: dict[str, int] = defaultdict(int)
            for _ in range(args.repetitions):
                for check in fired(draw(rows, generator.integers(images, size=count))):
                    times[check] += 1
            for check in times.keys() | truth:
                share = times[check] / args.repetitions
                side, rate = (misses, 1 - share) if check in truth else (alarms, share)
                side[check][count].append(rate)

    print(f"{len(cells)} honest rows of {args.table}, {args.repetitions} draws each\n")
    print("| flag | " + " | ".join(f"false alarms, {n:,} images" for n in IMAGES), end="")
    print(" | true of | " + " | ".join(f"missed, {n:,} images" for n in IMAGES) + " |")
    print("|---" * (2 + 2 * len(IMAGES)) + "|")
    for check in sorted(alarms.keys() | misses.keys(), key=lambda c: int(c[1:])):
        true_of = max((len(rates) for rates in misses[check].values()), default=0)
        wrong = [100 * sum(alarms[check][n]) / max(len(cells) - true_of, 1) for n in IMAGES]
        lost = [100 * sum(misses[check][n]) / true_of if true_of else None for n in IMAGES]
        print(f"| {check} | " + " | ".join(f"{rate:.1f} %" for rate in wrong), end="")
        said = ["" if rate is None else f"{rate:.1f} %" for rate in lost]
        print(f" | {true_of} | " + " | ".join(said) + " |")


if __name__ == "__main__":
    report(lambda _: main(), is_job=False)
