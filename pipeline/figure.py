"""Draw a figure: `python -m pipeline.figure results/aute/fig4.png`.

Writes .csv (the plotted numbers, from which alone the picture is drawn), .png, .json (receipt).
"""

import argparse
import json
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.figures import _exhibits as exhibits
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import registry
from pipeline.plan import Figure, Plan, load_plan
from pipeline.plan.state import is_current
from pipeline.store.files import write_atomic
from pipeline.store.lease import check_held, hold


def numbers(plan: Plan, figure: Figure) -> tuple[Any, pd.DataFrame]:
    """The kind that draws a figure, and the numbers it draws."""
    where = device.select(plan.entries.device, plan.entries.threads)
    if not any(cell.victim for cell in figure.cells):
        raise UserError(f"params.yaml: figures.{figure.name}: every row is planned; none to draw")
    kind = registry.build("figures", figure.kind)
    if figure.reads_weights:
        return kind, kind.numbers(exhibits.loaded(plan, figure, where))
    return kind, kind.numbers(exhibits.recorded(plan, figure))


def caption(plan: Plan, figure: Figure) -> str:
    """Title, scale, what stands in for what, and the rows that are not available yet."""
    setting = figure.cells[0].setting
    data, factor = plan.entries.stand_in(setting.dataset)
    about = [f"scale {plan.scale}"]
    if data != setting.dataset:
        about.append(f"{data} for {setting.dataset}, eps x {float(factor):.4g}")
    missing = dict.fromkeys(cell.row for cell in figure.cells if cell.victim is None)
    about += [f"not yet available: {', '.join(missing)}"] if missing else []
    return f"{figure.spec['title']}\n{'; '.join(about)}"


def draw(plan: Plan, figure: Figure) -> None:
    """Write a figure's files, the picture last."""
    kind, frame = numbers(plan, figure)
    picture = kind.draw(frame, caption(plan, figure))
    planned = [cell.row for cell in figure.cells if cell.victim is None]
    about = {
        "receipt": {"plan": figure.digest, "scale": plan.scale},
        "title": figure.spec["title"],
        "kind": figure.kind,
        "planned": planned,
    }
    check_held()
    figure.path.parent.mkdir(parents=True, exist_ok=True)
    csv = frame.to_csv(index=False, lineterminator="\n", float_format="%.7g")
    write_atomic(figure.path.with_suffix(".csv"), csv.encode())
    write_atomic(figure.path.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
    write_atomic(figure.path, picture)


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.figure", description=__doc__)
    parser.add_argument("figure", help="file of a figure, such as results/aute/fig4.png")
    given = parser.parse_args(argv).figure
    plan = load_plan()
    figure = plan.figure(given)
    with hold(f"figures/{figure.name}"):
        if is_current(figure):
            print(f"{figure.path}: nothing to do")
            return
        draw(plan, figure)


if __name__ == "__main__":
    report(main)
