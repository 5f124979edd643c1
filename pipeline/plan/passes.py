"""Passes that an attack spends on one image at most: a gradient step is two, a query one."""

from pipeline.plan.params.values import Entry

# Budgets that torchattacks' classes have where no argument states them; the others have 10 steps
LIBRARY: dict[str, Entry] = {
    "VANILA": {"steps": 0, "queries": 1},
    "GN": {"steps": 0, "queries": 1},
    "FGSM": {"steps": 1},
    "FFGSM": {"steps": 1},
    "CW": {"steps": 50},
    "EOTPGD": {"eot": 2},
    "DeepFool": {"steps": 50, "rivals": 9},
    "SparseFool": {"rivals": 9, "searches": 50},  # each step runs DeepFool
    "APGDT": {"targets": 9},
    "Square": {"steps": 0, "queries": 5000},
    "AutoAttack": {"version": "standard", "targets": 9, "queries": 5000},
    "OnePixel": {"popsize": 10},
    "Pixle": {"steps": 0, "restarts": 20, "max_iterations": 10},
}
OURS = {"n_queries": "queries", "n_restarts": "restarts", "eot_iter": "eot"}


def passes(attack: Entry, members: int = 1, classes: int = 10) -> int:
    """Forwards and backwards of one image that is never fooled, {component, fields}, by all members
    of a victim of so many, of a data set of so many classes."""
    fields, kind = as_ours(attack["fields"]), attack["component"]
    if "version" in fields:
        return _add_parts(fields, classes)
    if "widths" in fields or "tries" in fields:  # candidates, each looked at once
        return int(fields.get("tries", len(fields.get("widths", ()))))

    restarts, targets = fields.get("restarts", 1), fields.get("targets", 0)
    if kind == "fab":  # a step, and whether it fooled; plain FAB differentiates every class
        work = 3 * targets if targets else 2 + classes
    elif kind == "members_arc":  # a member's step, its rivals' boundaries, and whether it fooled
        work = 1 + members * (2 + targets)
    elif kind == "gate_pgd" or fields.get("goal") == "force":  # each member in turn
        work = 2 * members * max(targets, 1)
    else:
        work = step_passes(fields)
    work *= fields.get("particles", 1)

    queries = fields.get("queries", 0)
    steps = fields.get("steps", 0 if queries else 1)  # FGSM has one and says nothing
    return int(restarts * (steps * work + queries))


def step_passes(fields: Entry) -> int:
    """Of a step of gradient ascent with these fields."""
    looks = max(fields.get("targets", 1), 1) * fields.get("eot", 1) * fields.get("searches", 1)
    # a step towards the nearest of several boundaries differentiates each
    return int(2 * looks if "rivals" not in fields else (2 + fields["rivals"]) * looks)


def _add_parts(fields: Entry, classes: int) -> int:
    """Of AutoAttack: the sum of its parts, as its version has them."""
    step: Entry = {k: fields[k] for k in ("steps", "restarts", "eot") if k in fields}
    apgd, fab = ({"component": kind, "fields": step} for kind in ("apgd", "fab"))
    if fields["version"] == "rand":  # cross-entropy and DLR
        return 2 * passes(apgd)

    each: Entry = {**step, "restarts": 1, "targets": fields["targets"]}
    targeted = [{"component": kind, "fields": each} for kind in ("apgd", "fab")]
    plain = [apgd, apgd, fab] if fields["version"] == "plus" else [apgd]
    return sum(passes(a, classes=classes) for a in [*plain, *targeted]) + int(fields["queries"])


def as_ours(fields: Entry) -> Entry:
    """The budget of an attack: its fields, those of a class of torchattacks by our names."""
    if "arguments" not in fields:
        return fields

    name, stated = fields["class"], fields["arguments"].items()
    counts = {OURS.get(k, k): v for k, v in stated if type(v) is int}
    found: Entry = {"steps": 10, **LIBRARY.get(name, {}), **counts}
    if name == "OnePixel":  # a population, and a generation of it a step
        return {"queries": found["popsize"] * (found["steps"] + 1), "restarts": 1}
    if name == "Pixle":
        return {"queries": 2 * found["restarts"] * found["max_iterations"], "restarts": 1}
    return found
