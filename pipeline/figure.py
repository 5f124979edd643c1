"""Draw a figure: `python -m pipeline.figure results/aute/fig4.png`.

Writes .csv (the plotted numbers, from which alone the picture is drawn), .png, .pdf, .json
(receipt).
"""

import argparse
from typing import Any

import pandas as pd
import torch

from pipeline.errors import UserError
from pipeline.evaluation.verdicts import Evaluation
from pipeline.figures._exhibit import Loaded, Recorded
from pipeline.flags.evidence import Attack, read
from pipeline.flags.flags import judge
from pipeline.job import device
from pipeline.job.report import report
from pipeline.loading import models, registry
from pipeline.loading.images import load_split, subset
from pipeline.loading.sets import weights_of
from pipeline.plan import Figure, Plan, load_plan
from pipeline.plan.graph.targets import Cell, label
from pipeline.plan.params import values
from pipeline.store.lease import check_held, hold
from pipeline.store.receipts import write_target
from pipeline.store.sums import sum_of
from pipeline.tables.labels import name_data
from pipeline.tables.labels import read as read_name


def numbers(plan: Plan, figure: Figure) -> tuple[Any, pd.DataFrame]:
    """The kind that draws a figure, and the numbers it draws."""
    wanted = plan.entries.device if figure.reads_weights else "cpu"  # records need no GPU
    where = device.select(wanted, plan.entries.threads)
    if not any(cell.victim for cell in figure.cells):
        raise UserError(f"params.yaml: figures.{figure.name}: every row is planned; none to draw")

    kind = registry.build("figures", figure.kind)
    if figure.reads_weights:
        return kind, kind.numbers(loaded(plan, figure, where))
    shown = recorded(plan, figure)
    frame = kind.numbers(shown)
    if "row" not in frame:
        file = f"pipeline/figures/{figure.kind['component']}.py"
        raise UserError(f"{file}: numbers: the table lacks the column row, a row's label")

    along = str(figure.kind["fields"].get("along", ""))
    is_axis = along in frame and all(along in item.settings for item in shown)
    for key in ("flags", "not_trusted"):
        said: dict[tuple[str, float], str] = {}
        for item in shown:  # of all seeds of a row, at each point of an axis of the table
            place = item.label, item.settings[along] if is_axis else 0.0
            found = [*said.get(place, "").split(), *getattr(item, key)]
            said[place] = " ".join(dict.fromkeys(found))
        points = frame[along] if is_axis else [0.0] * len(frame)
        places = zip(frame["row"], points, strict=True)
        frame[key] = [said.get(place, "") for place in places]  # a line of several rows has none
    return kind, frame


def recorded(plan: Plan, figure: Figure) -> list[Recorded]:
    """Every cell of a figure that has records."""
    return [_read_recorded(plan, figure, cell) for cell in figure.cells if cell.victim]


def _read_recorded(plan: Plan, figure: Figure, cell: Cell) -> Recorded:
    along = str(figure.kind["fields"].get("along", ""))
    judged = judge(cell.records.values(), read)
    arrays = judged.evidence[0].clean
    clean = {k.removeprefix("clean/"): v for k, v in arrays.items() if k.startswith("clean/")}

    attacks = {"clean": Attack("clean", {"component": "clean", "fields": {}}, clean)}
    for attack in (attack for some in judged.evidence for attack in some.everything()):
        attacks[attack.name] = _unwrap_set(plan, attack)

    settings = {k: _resolve_axis(plan, cell, k, v) for k, v in cell.setting.overrides if k == along}
    settings["members"] = float(cell.members)
    checks = dict.fromkeys(flag.check for flag in judged.flags)
    name = label(cell, figure.cells, without=along)
    assert cell.victim is not None
    beside = (tuple(checks), tuple(sorted(judged.doubts)))
    return Recorded(name, cell.victim.id, settings, attacks, *beside)


def _unwrap_set(plan: Plan, attack: Attack) -> Attack:
    """An attack of a transfer set as what crafted the set."""
    if "set" not in attack.spec:
        return attack
    made = plan.set(attack.spec["set"])
    spec = {**made.attack, "surrogate": made.surrogate.entry}
    return Attack(attack.name, spec, attack.arrays)


def _resolve_axis(plan: Plan, cell: Cell, axis: str, stated: object) -> float:
    """The value of an axis in the cell's run: an epoch is the scale's, a radius the paper's."""
    assert cell.victim is not None
    spec = plan.run(cell.victim.elements[0].run).spec
    parts = [spec[key]["fields"] for key in ("average", "method") if key in spec]
    for part in [*parts, spec.get("recipe", {})]:
        if axis in part:
            return float(part[axis])
    return float(values.fraction(stated, f"params.yaml: tables: {axis}"))


def loaded(plan: Plan, figure: Figure, where: torch.device) -> list[Loaded]:
    """Every cell's victim, on as many of its test images as the figure's field `images` says."""
    victims = []
    for cell, specs in zip(figure.cells, figure.attacks, strict=True):
        if cell.victim is None:
            continue
        split = load_split(cell.victim.dataset, "test", where)
        victim = models.load_victim(plan, cell.victim, split, where)
        rows = subset(figure.pool, len(split))[: figure.kind["fields"].get("images", figure.pool)]
        evaluation = Evaluation(victim, split, rows)
        victims.append(Loaded(label(cell, figure.cells), evaluation, specs))
    return victims


def caption(plan: Plan, figure: Figure) -> str:
    """Title, scale, what stands in for what, and the rows that are not available yet."""
    setting = figure.cells[0].setting
    about = [name_data(plan.entries, [setting.dataset]), f"scale {plan.scale}"]
    missing = dict.fromkeys(read_name(cell.row) for cell in figure.cells if cell.victim is None)
    about += [f"not yet available: {', '.join(missing)}"] if missing else []
    return f"{figure.spec['title']}\n{'; '.join(about)}"


def draw(plan: Plan, figure: Figure) -> None:
    """Write a figure's files, the receipt last."""
    kind, frame = numbers(plan, figure)
    pictures = kind.draw(frame, caption(plan, figure))
    planned = [cell.row for cell in figure.cells if cell.victim is None]

    read = [record.path for record in plan.needs(figure)[0]]
    rests_on = {path.as_posix(): sum_of(path) for path in read if path.exists()}
    for victim in figure.victims:
        sums = weights_of(plan, victim)
        rests_on |= {plan.run(id).folder.as_posix(): sha256 for id, sha256 in sums.items()}

    about = {
        "receipt": {"plan": figure.digest, "scale": plan.scale, "rests_on": rests_on},
        "title": figure.spec["title"],
        "kind": figure.kind,
        "planned": planned,
    }

    check_held()
    csv = frame.to_csv(index=False, lineterminator="\n", float_format="%.7g")
    # The picture that names the figure comes last.
    names = {suffix: figure.path.with_suffix(suffix) for suffix in (".pdf", ".png")}
    files = {figure.path.with_suffix(".csv"): csv.encode()}
    files |= {path: pictures[suffix] for suffix, path in names.items()}
    write_target(figure.path.with_suffix(".json"), about, files)


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.figure", description=__doc__)
    parser.add_argument("figure", help="file of a figure, such as results/aute/fig4.png")
    given = parser.parse_args(argv).figure
    plan = load_plan()
    figure = plan.figure(given)
    with hold(f"figures/{figure.name}"):
        if figure.is_here():
            print(f"{figure.path}: is up to date, nothing to do")
            return
        draw(plan, figure)


if __name__ == "__main__":
    report(main)
