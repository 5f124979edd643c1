"""What a GPU does in ten minutes: `bash bench/gpu.sh [FOLDER] [--tiny] [--parts PART ...]` prints
it and leaves JSON.

Steps of training by arch and precision, epochs estimated from them; memory, and whether steps
repeat to the byte; how many processes a GPU is good for; AutoAttack; a resumed training to the
byte; then rows of scale `lunch` as long as their estimates fit. The file is written after every
line. `--tiny` runs all of it in seconds on a CPU, where no number means anything. CIFAR-10 is taken
from data/cifar10 where it is prepared, else random images of that shape stand for it, and the first
line says so.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.gpu.project import lay, measure_resume, measure_rows
from bench.gpu.report import Report
from bench.gpu.steps import (
    Bench,
    compare_bytes,
    measure_autoattack,
    measure_sharing,
    measure_steps,
    share,
)
from pipeline.job import device
from pipeline.plan.params.checks import GRAPHS


def main() -> None:
    parser = argparse.ArgumentParser(prog="bash bench/gpu.sh")
    parser.add_argument("--tiny", action="store_true", help="does it run: seconds on a CPU")
    parser.add_argument("--share", metavar="ARCH", help=argparse.SUPPRESS)
    parts = ("bytes", "steps", "sharing", "autoattack", "resume", "rows")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="which (all)")
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS, help="which (all)")
    parser.add_argument("--rows", nargs="+", default=[], help="of the table, in this order (all)")
    usual = Path(os.environ.get("OUT", "work/bench"))
    parser.add_argument("folder", nargs="?", type=Path, default=usual, metavar="FOLDER")
    args = parser.parse_args()

    bench = Bench(args.tiny, args.graphs)
    if args.share:
        share(bench, args.share)
        return

    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder.resolve() / "gpu.json"
    with tempfile.TemporaryDirectory() as name:
        plan, source = lay(Path(name), bench)
        head = {**device.describe(bench.where), "data": source, "tiny": args.tiny}
        report = Report(path, head)
        print(" ".join(f"{k}: {v};" for k, v in head.items()), flush=True)

        measures: dict[str, Callable[[], None]] = {
            "steps": lambda: measure_steps(bench, report),
            "bytes": lambda: compare_bytes(bench, report),
            "sharing": lambda: measure_sharing(bench, report),
            "autoattack": lambda: measure_autoattack(bench, report, plan.dataset("cifar10")),
            "resume": lambda: measure_resume(bench, report, plan),
            "rows": lambda: measure_rows(bench, report, plan, args.rows),
        }
        with contextlib.chdir(name):
            for part in args.parts:
                report.attempt(part, measures[part])
    print(path)


if __name__ == "__main__":
    main()
