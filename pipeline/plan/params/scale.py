"""The scale in use: what it shrinks, and what stands in for what. It adds nothing."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.plan.params import checks, values
from pipeline.plan.params.schema import ROOT, class_fields
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import nearest

T = TypeVar("T")
KEYS = (
    "base",
    "threads",
    "device",
    "stand_ins",
    "archs",
    "recipe",
    "recipes",
    "attacks",
    "members",
    "images",
    "seeds",
    "tables",
    "figures",
    "gflops",
)
NAMES = {"stand_ins": "datasets", "archs": "archs", "recipes": "recipes", "attacks": "attacks"}
NAMES |= {"tables": "tables", "figures": "figures"}
INHERITED = ("recipes", "attacks")  # whose cuts hold for entries based on those they name
DEVICES = ("cpu", "cuda", "auto")
GFLOPS = 20000  # what one GPU sustains, where a scale says nothing


class Scale:
    """The entry of `scales:` that `scale:` names, checked."""

    def __init__(self, params: Entry) -> None:
        self.params = params
        self._found: dict[tuple[Any, ...], Any] = {}

        scales = self.section("scales")
        self.scale_name = values.find(scales, "scale", params.get("scale"))
        if scales.get("paper") != {}:
            raise UserError("params.yaml: scales.paper: must stay {}: the file is paper scale")

        _, self.scale = values.inherit(scales, "scales", self.scale_name)
        values.only(self.scale, KEYS, f"scales.{self.scale_name}")
        self.recipe_types = class_fields(ROOT / "pipeline" / "contracts" / "recipe.py", "Recipe")
        self._check_recipe(self.part("recipe"), self._where("recipe"))

        for key, section in NAMES.items():
            for name, cut in self.part(key).items():
                where = f"{self._where(key)}.{name}"
                values.find(self.section(section), where, name)
                if key != "archs" and not isinstance(cut, dict):
                    raise UserError(f"params.yaml: {where}: must be a mapping, found {cut!r}")
                if key == "recipes":
                    self._check_recipe(cut, where)

        self.threads = values.as_int(self.scale.get("threads", 1), self._named("threads"), 1)
        # `auto` is cuda where there is one
        self.device = checks.one_of(
            self.scale.get("device", "auto"), DEVICES, self._where("device")
        )
        self.gflops = self._gflops()

    def _where(self, key: str) -> str:
        return f"scales.{self.scale_name}.{key}"

    def _named(self, key: str) -> str:
        return f"params.yaml: {self._where(key)}"

    def section(self, name: str) -> dict[str, Entry]:
        """A section whose every value is a mapping, checked once."""
        return self.once(("section", name), lambda: values.section(self.params, name))

    def once(self, key: tuple[Any, ...], find: Callable[[], T]) -> T:
        """What `find` gives, asked for once."""
        if key not in self._found:
            self._found[key] = find()
        found: T = self._found[key]
        return found

    def part(self, key: str) -> Entry:
        """A mapping of the scale, empty when it shrinks nothing there."""
        part = self.scale.get(key, {})
        if not isinstance(part, dict):
            raise UserError(f"{self._named(key)}: must be a mapping, found {part!r}")
        return part

    def _check_recipe(self, cut: Entry, where: str) -> None:
        values.only(cut, self.recipe_types, where)
        values.as_int(cut.get("epochs", 1), f"params.yaml: {where}.epochs", 1)

    def recipe_cut(self, name: str) -> Entry:
        """What the scale changes of a recipe: of every one, and nearer, of this one by name."""
        return {**self.part("recipe"), **self.cut_of("recipes", name)}

    def cut_of(self, key: str, name: str) -> Entry:
        """What the scale changes of an attack or recipe, or of those it is based on, nearest first.

        Of an inherited cut, counts are upper bounds, and what the entry says itself stays.
        """

        section, cuts = self.section(NAMES[key]), self.part(key)
        _, entry = values.inherit(section, NAMES[key], name)
        if values.as_bool(entry.get("uncut", False), f"params.yaml: {key}.{name}.uncut"):
            if name in cuts:
                raise UserError(f"{self._named(key)}.{name}: the entry is `uncut`; take one off")
            return {}

        cut: Entry = {}
        stated_fields: set[str] = set()
        ancestor: str | None = name
        # Nearest first: setdefault keeps what a nearer entry's cut has said.
        while ancestor is not None:
            for field, value in cuts.get(ancestor, {}).items():
                stated = entry.get(field) if field in stated_fields else None
                if type(value) is int and type(stated) is int:
                    cut.setdefault(field, min(value, stated))
                elif stated is None:
                    cut.setdefault(field, value)
            stated_fields |= set(section[ancestor])
            ancestor = section[ancestor].get("base")
        return cut

    def _gflops(self) -> float:
        """What the machine sustains, for estimates."""
        gflops = float(values.fraction(self.scale.get("gflops", GFLOPS), self._named("gflops")))
        if gflops <= 0:
            raise UserError(f"{self._named('gflops')}: {gflops} is not more than 0")
        return gflops

    def stand_in(self, name: str) -> tuple[str, Fraction]:
        """The data set that stands for `name` at this scale, and its eps factor."""
        return self.once(("stand_in", name), lambda: self._stand_in(name))

    def _stand_in(self, name: str) -> tuple[str, Fraction]:
        entry = self.part("stand_ins").get(name)
        if entry is None:
            return name, Fraction(1)
        where = f"{self._where('stand_ins')}.{name}"
        values.only(entry, ("dataset", "eps_factor"), where, must=("dataset", "eps_factor"))

        factor = values.fraction(entry["eps_factor"], f"params.yaml: {where}.eps_factor")
        if factor <= 0:
            raise UserError(f"params.yaml: {where}.eps_factor: {factor} is not more than 0")
        dataset = values.find(self.section("datasets"), f"{where}.dataset", entry["dataset"])
        return dataset, factor

    def cut(self, key: str, name: str, entry: Entry) -> Entry:
        """An entry with the scale's cut of it; raises UserError when the cut would grow it."""
        cut = self.part(key).get(name, {})
        if key in INHERITED:
            cut = self.cut_of(key, name)
        for field, value in cut.items():
            if field in entry and _grows(entry[field], value):
                self._refuse_names(f"{key}.{name}.{field}", entry[field], value)
                raise UserError(
                    f"{self._named(key)}.{name}.{field}: {value} is more than "
                    f"{key}.{name} has ({entry[field]}); a scale only shrinks"
                )
        return {**entry, **cut}

    def _refuse_names(self, where: str, known: Any, asked: Any) -> None:
        """Raise UserError for the first name of a scale's list that the list it cuts lacks."""
        names = asked if isinstance(asked, list) else []
        for name in (n for n in names if isinstance(n, str) and n not in known):
            raise UserError(
                f"{self._named(where)}: {name!r} is not in {where}{nearest(name, known)}; "
                "a scale only shrinks: correct it, or add it there"
            )


def shrink(key: str, stated: Any, cut: Any, is_own: bool) -> Any:
    """A value of a recipe at a scale that cuts it; `is_own` where an own key or an axis states it.

    A count is the smaller one, where 0 is all or never, but epochs between validations only where
    they are the entry's own: more of them is less work. Anything else stays where it is its own.
    """
    counts = type(stated) is int and type(cut) is int
    if counts and (is_own or key != "validate_every"):
        return min(stated or cut, cut)
    return stated if is_own else cut


def _grows(old: Any, new: Any) -> bool:
    """Whether a count rises, or a list gains a larger number or another word."""
    if isinstance(old, list) and isinstance(new, list):
        return any(item not in old and all(not _less(item, o) for o in old) for item in new)
    counts = type(old) is int and type(new) is int
    return counts and new > old


def _less(new: Any, old: Any) -> bool:
    numbers = isinstance(new, int | float) and isinstance(old, int | float)
    return numbers and new < old
