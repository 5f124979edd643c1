"""What entries of several sections must hold, each with its one-line error."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.params import schema, values
from pipeline.plan.params.parts import TOGETHER, why_whole
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import nearest

BESIDE = {  # keys that are no fields, and of archs and data sets in no name
    "attacks": ("surrogate", "only", "uncut"),
    "archs": ("macs", "parameters", "activations", "runs_per_gpu"),
    "averages": ("method", "members", "best"),
    "datasets": ("images",),
    "figures": ("title", "kind", "table", "rows", "suites", "where"),
    "methods": ("members", "weights", "twin"),
}
CHECKPOINTS = ("last", "best")
COMBINATIONS = (
    "mean_prob",
    "mean_logit",
    "vote",
    "max_conf",
    "gated",
    "random_one",
    "random_each",
)
GRAPHS = ("none", "crafting", "steps")  # what trainings on a GPU replay
SURROGATES: tuple[str, ...] = ("self", "averaged", "mean_logit", "members", "normalised")
SCALINGS = {"cooled": 0.1, "heated": 10.0}  # factors of the victim's logits
SURROGATES += ("answers", *SCALINGS)
TAKEN = ("raw", "reported", "claims")  # folders of data/ that are no data set's
# keys of a recipe that need not be given
USUAL: Entry = {"held_out": "always", "input_std": [], "micro_batch": 0}
EPOCHS = {"ema_start": "Epoch", "augment_after": "Epoch"}  # of a recipe, beside its milestones
ON_TEST = "best_test_as_published"  # how a recipe selects that chooses by test images
MOST_MEMBERS = 1000  # members of one table seed have the run seeds of a thousand


def one_of(value: Any, choices: tuple[str, ...], where: str) -> str:
    """`value`, which must be one of these words."""
    if value not in choices:
        listed, hint = ", ".join(choices), nearest(value, choices)
        raise UserError(f"params.yaml: {where}: {value!r} is not one of {listed}{hint}")
    return str(value)


def members(value: Any, where: str) -> int:
    """A number of members: at least 1, few enough for their seeds to be disjoint."""
    count = values.as_int(value, f"params.yaml: {where}", 1)
    if count > MOST_MEMBERS:
        raise UserError(f"params.yaml: {where}: {count} is more than {MOST_MEMBERS}")
    return count


def find_component(kind: str, name: str, recipe: Iterable[str]) -> schema.Component:
    """What its file says of a component; raises UserError where a field is called like another key
    of its entries, a method's of its recipe included."""
    found = schema.component(kind, name)
    taken = {"base", *BESIDE[kind], *(recipe if kind == "methods" else ())}
    both = sorted(taken.intersection(found.types))
    if both:
        raise UserError(
            f"pipeline/{kind}/{name}.py: field {both[0]} is another key of {kind}; rename the field"
        )
    return found


def part_place(fields: Entry, types: Mapping[str, str]) -> tuple[Entry, str | None]:
    """The fields that a name is made of, and where the user's own files lie, if anywhere."""
    places = [fields[key] for key, kind in types.items() if kind == "Place"]
    named = {key: value for key, value in fields.items() if types[key] != "Place"}
    return named, places[0] if places else None


def recipe(fields: Entry, where: str) -> None:
    """Raise UserError unless epochs, milestones and rates fit together."""
    place = f"params.yaml: {where}"
    values.as_int(fields["epochs"], f"{place}.epochs", 1)
    values.as_int(fields["batch_size"], f"{place}.batch_size", 2)  # of batch norm
    for key in ("micro_batch", "train_images"):
        if fields[key]:
            values.as_int(fields[key], f"{place}.{key}", 2)
    if fields["nesterov"] and not fields["momentum"]:
        raise UserError(f"{place}.nesterov: needs momentum above 0")

    begins = {"ema_start": fields["ema_decay"], "augment_after": fields["augment"] != "dataset"}
    epochs({k: fields[k] for k, used in begins.items() if used}, EPOCHS, fields["epochs"], where)
    if fields["ema_decay"] and fields["ema_first"] == "initial" and fields["ema_start"] > 1:
        raise UserError(f"{place}.ema_first: initial needs ema_start 1")
    _schedule(fields, place)


def _schedule(fields: Entry, place: str) -> None:
    milestones, one_cycle = fields["milestones"], fields["schedule"] == "one_cycle"
    if milestones != sorted(milestones):
        raise UserError(f"{place}.milestones: must not fall")
    if one_cycle and (len(milestones) != 1 or not 1 <= milestones[0] <= fields["epochs"]):
        raise UserError(f"{place}.milestones: one_cycle needs its one peak epoch")

    if not one_cycle and milestones and milestones[-1] > fields["epochs"]:
        raise UserError(
            f"{place}.milestones: {milestones[-1]} lies behind the last epoch, "
            f"{fields['epochs']}; give milestones and lr_values for these epochs ([] for none)"
        )

    rates = 2 if one_cycle else len(milestones)
    if len(fields["lr_values"]) != rates:
        raise UserError(f"{place}.lr_values: needs {rates} values")
    if fields["schedule"] == "piecewise_linear" and not milestones:
        raise UserError(f"{place}.milestones: piecewise_linear needs one or more")


def rate(fields: Entry, stated: Iterable[str], where: str) -> None:
    """Raise UserError where an entry states a rate that its schedule never takes."""
    first = fields["lr_values"][0] if fields["schedule"] == "piecewise_linear" else fields["lr"]
    if "lr" in stated and fields["lr"] != first:
        raise UserError(
            f"params.yaml: {where}.lr: {fields['lr']:g} is never the rate of piecewise_linear, "
            f"which starts at {first:g} (lr_values); write that, or none"
        )


def epochs(fields: Entry, types: Mapping[str, str], last: int, where: str) -> None:
    """Raise UserError where an epoch of a method lies behind the last one: it never comes."""
    for key, kind in types.items():
        given = fields.get(key) if kind in ("Epoch", "list[Epoch]") else None
        for epoch in given if isinstance(given, list) else [given or 0]:
            if epoch > last:
                raise UserError(
                    f"params.yaml: {where}.{key}: {epoch} lies behind the last epoch, {last}; "
                    "give one of these epochs"
                )


def name_recipe(fields: Entry) -> Entry:
    """What of a recipe names a run: without what need not be given and is as usual."""
    if fields["validate_every"] and fields["select"] != ON_TEST:
        fields = fields | {"held_out": "always"}  # it validates on them
    if fields["micro_batch"] >= fields["batch_size"]:  # one part, which is the whole
        fields = fields | {"micro_batch": 0}
    return {k: v for k, v in fields.items() if k not in USUAL or v != USUAL[k]}


def parts(method: str, component: str, writes_step: bool, size: int) -> None:
    """Raise UserError where a recipe splits batches and the method needs them whole."""
    if reason := why_whole(component, writes_step):
        raise UserError(
            f"params.yaml: micro_batch: {size} would train another {method}, which {reason}; "
            f"give methods.{method} micro_batch: 0"
        )


def joint(method: str, component: str, fields: Entry, types: Mapping[str, str]) -> None:
    """Raise UserError where members meet and are trained apart, train in turn and are not, or
    would learn nothing of each other."""
    if component in TOGETHER and not fields["joint"]:
        raise UserError(
            f"params.yaml: methods.{method}.joint: false, but members of {component} meet in "
            "their losses; write true, or members: 1"
        )
    if fields["joint"] and "Earlier" in types.values():
        raise UserError(
            f"params.yaml: methods.{method}.joint: true, but members of {component} train in "
            "turn; write false"
        )
    # Every peer's answer is a corner of what the others are amalgamated to: the distance is 0.
    if component == "cat_aka" and fields["amalgamation"] == "pareto":
        raise UserError(
            f"params.yaml: methods.{method}.amalgamation: pareto teaches peers nothing, since the "
            "closest to each is its own answer; write naive, linear or soft"
        )


def dataset_name(name: str) -> None:
    """Raise UserError where the folder of a data set is another's."""
    if name in TAKEN:
        raise UserError(f"params.yaml: datasets.{name}: data/{name} is taken; rename it")


def held_out(dataset: Entry, recipes: Iterable[Entry], where: str) -> int:
    """Number of validation images; raises UserError where a victim was trained on them."""
    if any("held_out" in recipe for recipe in recipes):
        raise UserError(
            f"params.yaml: {where}: a row's recipe trains on the validation images (held_out)"
        )
    return int(dataset["validation"])


def validation(dataset: Entry, recipe: Entry, name: str) -> None:
    """Raise UserError where a recipe validates on images that the data set does not hold out."""
    on_test = recipe["select"] == ON_TEST
    if recipe["validate_every"] and not on_test and not dataset["validation"]:
        raise UserError(
            f"params.yaml: datasets.{name}.validation: is 0, but recipes validate: hold some out, "
            "or set validate_every: 0"
        )


def augmentation(dataset: Entry, recipe: Entry, name: str) -> None:
    """Raise UserError where a policy of grey or RGB pictures would augment others."""
    if recipe["augment"] != "dataset" and dataset["channels"] not in (1, 3):
        raise UserError(
            f"params.yaml: datasets.{name}.channels: {recipe['augment']} is of images with 1 or 3, "
            f"not {dataset['channels']}; train by augment: dataset"
        )


def judged(images: int, dataset: Entry, name: str) -> None:
    """Raise UserError where more images are asked for than a test split of known size has."""
    available = dataset.get("test", images)
    if not 1 <= images <= available:
        raise UserError(f"params.yaml: images: {images} asked for, {name} has {available} to test")


def compares(fields: Entry) -> int:
    """The number of classes that an attack's loss compares: of a set of fewer it means nothing."""
    known = values.settings_of(fields)
    loss = known.get("loss")
    if "version" in known:  # of AutoAttack
        targeted = known["version"] != "rand" and known.get("targets")
        loss = "dlr_targeted" if targeted else "dlr"
    return {"dlr": 3, "dlr_targeted": 4}.get(str(loss), 2)


def parent(keys: Entry, where: str) -> None:
    """Raise UserError unless members, seed and checkpoint of a parent are what they must be."""
    if "members" in keys:
        members(keys["members"], f"{where}.members")
    if "seed" in keys:
        values.as_int(keys["seed"], f"params.yaml: {where}.seed")
    if "checkpoint" in keys:
        one_of(keys["checkpoint"], CHECKPOINTS, f"{where}.checkpoint")


def window(fields: Entry, types: Mapping[str, str], epochs: int, where: str) -> None:
    """Raise UserError unless an average's epochs are some of its training's; stop 0 is the last."""
    for key in (k for k, kind in types.items() if kind == "Epoch"):
        least = 0 if key == "stop" else 1
        if not least <= fields[key] <= epochs:
            raise UserError(
                f"params.yaml: {where}.{key}: {fields[key]} is none of the epochs 1 to {epochs}"
            )
    if 0 < fields.get("stop", 0) < fields.get("start", 1):
        raise UserError(f"params.yaml: {where}.stop: {fields['stop']} lies before start")


def names(value: Any, known: Any, where: str) -> list[str]:
    """A list of different names of `known`, at least one."""
    if not isinstance(value, list) or not value:
        raise UserError(f"params.yaml: {where}: needs a list of names")

    listed = [values.find(known, where, name) for name in value]
    for name in listed:
        if listed.count(name) > 1:
            raise UserError(f"params.yaml: {where}: {name} stands twice")
    return listed


def counts(value: Any, where: str, least: int = 0) -> list[int]:
    """A list of different whole numbers, at least one."""
    if not isinstance(value, list) or not value:
        raise UserError(f"params.yaml: {where}: needs a list of whole numbers")

    numbers = [values.as_int(number, f"params.yaml: {where}", least) for number in value]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"params.yaml: {where}: a number stands twice")
    return numbers


def title(value: object, where: str) -> None:
    """Raise UserError unless it is one line that pictures and pages show as it is written."""
    if not isinstance(value, str) or not value.isprintable():
        raise UserError(f"{where}: {value!r} is no line of text")
    if "$" in value:
        raise UserError(f"{where}: a $ begins a formula in pictures; write it in words")
