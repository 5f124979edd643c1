"""A figure's rows from disk: records with their checks, or victims with their test images."""

import torch

from pipeline.evaluation.verdicts import Evaluation
from pipeline.figures._exhibit import Loaded, Recorded
from pipeline.flags.evidence import Attack, Evidence, read
from pipeline.loading import models
from pipeline.loading.images import load_split
from pipeline.loading.subset import subset
from pipeline.plan import Figure, Plan
from pipeline.plan.graph.artifacts import Cell
from pipeline.plan.graph.labels import label
from pipeline.plan.params import values


def recorded(plan: Plan, figure: Figure) -> list[Recorded]:
    """Every cell of a figure that has records."""
    return [_recorded(plan, figure, cell) for cell in figure.cells if cell.victim]


def _recorded(plan: Plan, figure: Figure, cell: Cell) -> Recorded:
    along = str(figure.kind["fields"].get("along", ""))
    found = Evidence([(read(r), list(r.attacks)) for r in cell.records.values()])
    clean = {k.removeprefix("clean/"): v for k, v in found.clean.items() if k.startswith("clean/")}
    attacks = {"clean": Attack("clean", {"component": "clean", "fields": {}}, clean)}
    for attack in found.everything():
        attacks[attack.name] = _crafted_by(plan, attack)
    settings = {k: _resolved(plan, cell, k, v) for k, v in cell.setting.overrides}
    return Recorded(label(cell, figure.cells, without=along), settings, attacks)


def _crafted_by(plan: Plan, attack: Attack) -> Attack:
    """An attack of a transfer set as what crafted the set."""
    if "set" not in attack.spec:
        return attack
    made = plan.set(attack.spec["set"])
    spec = {**made.attack, "surrogate": made.surrogate.entry}
    return Attack(attack.name, spec, attack.arrays)


def _resolved(plan: Plan, cell: Cell, axis: str, stated: object) -> float:
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
    found = []
    for cell, specs in zip(figure.cells, figure.attacks, strict=True):
        if cell.victim is None:
            continue
        split = load_split(cell.victim.dataset, "test", where)
        victim = models.load_victim(plan, cell.victim, split, where)
        rows = subset(figure.pool, len(split))[: figure.kind["fields"].get("images", figure.pool)]
        evaluation = Evaluation(victim, split, rows)
        found.append(Loaded(label(cell, figure.cells), evaluation, specs))
    return found
