"""GPU memory that a job holds, before it runs: an estimate, and no part of any identity.

Weights, their gradients, momentum and average; and what a backward pass keeps of the images of a
step (`activations` of an arch, of a 32x32 image), in all networks that crafting climbs together.
Where a loss holds gradients in the images, the graph of the backward pass is kept too. What the
allocator and a library's workspaces take on top is not counted, but for a fixed part.
"""

from collections.abc import Callable
from typing import Any

from pipeline.plan import Plan, Record, Run, TransferSet, Victim
from pipeline.plan.estimate import archs_beside, area_of
from pipeline.plan.graph.outside import MODULE

FIXED = 1e9  # bytes: CUDA's context and cuDNN's workspace
PENALISED = ("gal", "ps_red", "red", "trs")  # losses of gradients in the images
# Batches whose activations a step keeps at once, by method: clean ones too, views, directions
TOGETHER = {"arow": 2, "ccg": 2, "hat": 3, "mart": 2, "soe": 4, "stat": 3, "trades": 2}
GRAPH = 3  # times what a backward pass keeps, where it is differentiated itself
# Images at once where a batch is drawn for, at least, whatever `resources.evaluate.batch` says: of
# random victims and of the library's attacks
DRAWN = 300
LIBRARY = "torchattacks"
VALIDATED = 500  # images at once, where a recipe has no `micro_batch`
TRAINED = 3  # a weight, its gradient, its momentum


def run_bytes(plan: Plan, run: Run) -> float | None:
    """Of a training; None where an arch states no `parameters` or `activations`."""
    recipe, method = run.spec["recipe"], run.spec["method"]
    trained = [run.arch] * run.members + archs_beside(plan, run)
    frozen = [plan.run(parent).arch for parent in run.parents]

    weights = _sum(plan, "parameters", trained)
    still = _sum(plan, "parameters", frozen)
    kept = _sum(plan, "activations", trained)
    if weights is None or still is None or kept is None:
        return None

    copies = TRAINED + int(recipe["ema_decay"] > 0)
    images: int = recipe.get("micro_batch") or recipe["batch_size"]
    graph = GRAPH if method["component"] in PENALISED else 1
    width = 2 if recipe["precision"] == "bf16" else 4  # bytes of an activation
    batches = TOGETHER.get(method["component"], 1)
    step: float = images * batches * kept * graph * width
    if recipe["validate_every"]:  # climbs the members alone, in float32
        own = _sum(plan, "activations", [run.arch] * run.members) or 0
        step = max(step, 4 * own * (recipe.get("micro_batch") or VALIDATED))
    return FIXED + 4 * (copies * weights + still) + step * float(area_of(run.dataset))


def record_bytes(plan: Plan, record: Record) -> float | None:
    """Of an evaluation, which climbs all members with `resources.evaluate.batch` images."""
    is_drawn = any(spec["component"] == LIBRARY for _, spec in record.attacks)
    return _victim_bytes(plan, record.victim, is_drawn)


def set_bytes(plan: Plan, made: TransferSet) -> float | None:
    """Of crafting a transfer set, which climbs its surrogate in the same way."""
    return _victim_bytes(plan, made.surrogate, made.attack["component"] == LIBRARY)


def _victim_bytes(plan: Plan, victim: Victim, is_drawn: bool) -> float | None:
    runs = [plan.run(element.run) for element in victim.elements]
    archs = [run.arch for run in runs for _ in range(run.members)]
    weights, kept = _sum(plan, "parameters", archs), _sum(plan, "activations", archs)
    if weights is None or kept is None:
        return None
    images = plan.entries.resource("evaluate", "batch")
    if victim.combine.startswith("random"):
        images = DRAWN
    elif is_drawn:
        images = max(images, DRAWN)
    return FIXED + 4 * (2 * weights + images * kept * float(area_of(victim.dataset)))


def average_bytes(plan: Plan, run: Run) -> float | None:
    """Of an average, which passes the training images through the network in training's batches."""
    return run_bytes(plan, plan.run(run.parents[0]))


HELD: dict[str, Callable[[Plan, Any], float | None]] = {
    "train": run_bytes,
    "trajectory": lambda plan, snapshots: run_bytes(plan, snapshots.run),
    "average": average_bytes,
    "evaluate": record_bytes,
    "transfer": set_bytes,
}


def _sum(plan: Plan, key: str, archs: list[str]) -> int | None:
    if MODULE in archs:  # a user's own network, of which the plan knows nothing
        return None
    numbers = [plan.entries.stated("archs", arch, key) for arch in archs]
    return None if None in numbers else sum(n for n in numbers if n is not None)
