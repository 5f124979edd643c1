"""Entries of params.yaml resolved at a scale: data sets, archs, attacks, recipes, methods."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any

from pipeline.errors import LOGIN, TOKEN, UserError
from pipeline.plan.artifact import Dataset
from pipeline.plan.params import checks, schema, values
from pipeline.plan.params.checks import MOST_MEMBERS
from pipeline.plan.params.scale import Scale, shrink
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest, nearest

STAGES = ("prepare", "train", "average", "transfer", "evaluate", "tabulate", "figure")
SECTIONS = (
    "scale",
    "mirror",
    "core",
    "scales",
    "datasets",
    "archs",
    "recipes",
    "attacks",
    "methods",
    "averages",
    "weights",
    "parents",
    "victims",
    "suites",
    "tables",
    "figures",
    "planned",
    "resources",
)
USUAL = {"save_minutes": 10, "batch": 300}  # of `resources:`, where there is no such section
ROWS = ("victims", "averages", "methods")  # sections that a table's row may name


@dataclass(frozen=True)
class Setting:
    """What a row is trained and evaluated in, before stand-ins."""

    dataset: str  # as the table names it
    arch: str
    recipe: str
    members: int
    seed: int  # of the table
    checkpoint: str = "last"
    overrides: tuple[tuple[str, Any], ...] = field(default=())  # axis values

    @property
    def eps(self) -> Any:
        """The radius that an axis `train_eps` gives to training and evaluation alike, or None."""
        return dict(self.overrides).get("train_eps")

    def bare(self) -> "Setting":
        """This setting without the axis values that concern one method's fields."""
        kept = tuple((k, v) for k, v in self.overrides if k == "train_eps")
        return replace(self, overrides=kept)

    def seeds(self, members: int) -> list[int]:
        """Run seeds of independent members; replicates are disjoint."""
        return [MOST_MEMBERS * self.seed + i for i in range(members)]


@dataclass(frozen=True)
class Resolved:
    """A component with its values, as identity sees it; `name` is the params entry."""

    name: str
    component: str
    fields: Entry
    code: str

    @property
    def spec(self) -> Entry:
        """The part of an artifact's identity that this component determines."""
        return {"component": self.component, "fields": self.fields, "code": self.code}


class Entries(Scale):
    """Access to the sections of params.yaml under the chosen scale."""

    def __init__(self, params: Entry) -> None:
        for key in params:
            if key not in SECTIONS:
                hint = nearest(key, SECTIONS)
                raise UserError(f"params.yaml: {key}: no such section{hint}")
        super().__init__(params)
        self.core = self._core()
        self.mirror = self._mirror()

    def _core(self) -> dict[str, int]:
        core = self.params.get("core", {})
        if not isinstance(core, dict) or set(core) != set(STAGES):
            raise UserError(f"params.yaml: core: needs exactly {', '.join(STAGES)}")
        return {k: values.as_int(v, f"params.yaml: core.{k}") for k, v in core.items()}

    def _mirror(self) -> str | None:
        """Directory or base URL that holds the raw files, for sites without internet."""
        mirror = self.params.get("mirror", "none")
        if not isinstance(mirror, str):
            raise UserError(f"params.yaml: mirror: {mirror!r} is not a folder, a URL or none")
        if LOGIN.search(mirror) or TOKEN.search(mirror):
            raise UserError(
                "params.yaml: mirror: holds credentials, and this file goes into git, reports "
                "and the copies that jobs read; export ROBUST_MIRROR='ADDRESS' instead"
            )
        return None if mirror == "none" else mirror

    def entry(self, kind: str, name: str) -> tuple[str, Entry]:
        """Root name and merged keys of one entry.

        A method's key that is `recipe` is no key of its own: the recipe's again, whatever a base
        says.
        """
        key = ("entry", kind, name)
        root, merged = self.once(key, lambda: values.inherit(self.section(kind), kind, name))
        return root, {k: v for k, v in merged.items() if (kind, v) != ("methods", "recipe")}

    def component(self, kind: str, name: str) -> schema.Component:
        """What its file says of a component, read once."""
        find = partial(checks.find_component, kind, name, self.recipe_types)
        return self.once(("component", kind, name), find)

    def dataset(self, name: str) -> Dataset:
        """The data set of one entry of `datasets:`; its arrays lie in data/<name>."""
        return self.once(("dataset", name), lambda: self._dataset(name))

    def _dataset(self, name: str) -> Dataset:
        checks.dataset_name(name)
        resolved = self._once("datasets", name, Fraction(1))
        types = self.component("datasets", resolved.component).types
        named, place = checks.part_place(resolved.fields, types)
        spec = {**resolved.spec, "fields": named, "core": self.core["prepare"]}
        # A folder of raw files is fetched by the entry of its name, which says their sums.
        root = self.section("datasets")[resolved.component]
        is_shared = root.get("sha256") == resolved.fields.get("sha256")
        return Dataset(name, resolved.component, resolved.fields, digest(spec), place, is_shared)

    def resolve(
        self, kind: str, name: str, entry: Entry | None = None, factor: Fraction = Fraction(1)
    ) -> Resolved:
        """Entry `name` of section `kind`, or other keys in its place, with coerced values."""
        root, _ = self.entry(kind, name)
        component, where = self.component(kind, root), f"{kind}.{name}"
        keys = self.component_keys(kind, name) if entry is None else entry
        keys = {**component.usual, **keys}
        own = component.ranges
        fields = values.coerce(keys, component.types, where, eps_factor=factor, ranges_of=own)
        # At its usual value a field is in no name: an option that is new renames nothing.
        usual = component.usual.items()
        fields = {k: v for k, v in fields.items() if (k, v) not in usual}
        return Resolved(name, root, fields, component.code)

    def arch(self, name: str) -> Resolved:
        """The arch that stands for `name` at this scale."""
        stand_in = self.part("archs").get(name, name)
        where = "archs" if stand_in == name else f"{self._where('archs')}.{name}"
        stand_in = values.find(self.section("archs"), where, stand_in)
        return self._once("archs", stand_in, Fraction(1))

    def exact_arch(self, name: str) -> Resolved:
        """The arch of that name, whatever stands for it at this scale: a file's is what it is."""
        return self._once("archs", name, Fraction(1))

    def attack(self, name: str, factor: Fraction, eps: Any = None) -> Resolved | None:
        """An attack at this scale's budget, radii scaled, `eps` in place of its own if given.

        None for `none`.
        """
        return None if name == "none" else self.named_attack(name, factor, eps)

    def named_attack(self, name: str, factor: Fraction, eps: Any = None) -> Resolved:
        """The same of an entry's name, which `none` is not."""
        return self._once("attacks", name, factor, eps)

    def attack_in(self, name: str, factor: Fraction, setting: Setting, eps: Any = None) -> Resolved:
        """The same in a setting, whose axis `train_eps` is a radius of linf: attacks within other
        balls keep their own. `eps` is a sweep's, whatever the norm."""
        root, entry = self.entry("attacks", name)
        has_radius = "eps" in self.component("attacks", root).types or "eps" in entry
        in_linf = has_radius and entry.get("norm", "linf") == "linf"
        axis = setting.eps if in_linf else None
        return self.named_attack(name, factor, axis if eps is None else eps)

    def _once(self, kind: str, name: str, factor: Fraction, eps: Any = None) -> Resolved:
        """A component that depends on nothing but its name, factor and radius, resolved once."""

        def find() -> Resolved:
            entry = self.component_keys(kind, name)
            if kind == "attacks":
                entry = self.cut(kind, name, entry)
            if eps is not None:
                entry["eps"] = eps
            return self.resolve(kind, name, entry, factor)

        return self.once((kind, name, factor, str(eps)), find)

    def component_keys(self, kind: str, name: str) -> Entry:
        """An entry without the keys that are no fields of its component."""
        return {k: v for k, v in self.entry(kind, name)[1].items() if k not in checks.BESIDE[kind]}

    def stated(self, kind: str, name: str, key: str) -> int | None:
        """A count beside the fields of an arch or data set, for estimates and clusters, or None."""
        where, value = f"params.yaml: {kind}.{name}.{key}", self.entry(kind, name)[1].get(key)
        return None if value is None else values.as_int(value, where, 1)

    def resource(self, stage: str, key: str) -> int:
        """A number of `resources:`, or the usual one where a params.yaml has no such section."""
        return int(self.section("resources").get(stage, {}).get(key, USUAL[key]))

    @property
    def graphs(self) -> str:
        """What trainings on a GPU replay: none, crafting, or whole steps."""
        return str(self.section("resources").get("train", {}).get("graphs", "crafting"))

    def surrogate(self, name: str) -> str:
        """What an attack differentiates instead of the victim: see evaluation/surrogates.py."""

        def find() -> str:
            surrogate = self.entry("attacks", name)[1].get("surrogate", "self")
            return checks.one_of(surrogate, checks.SURROGATES, f"attacks.{name}.surrogate")

        return self.once(("surrogate", name), find)

    def suits(self, name: str, combine: str) -> bool:
        """Whether an attack is for victims of this combination: `only: [...]` names them."""
        only = self.entry("attacks", name)[1].get("only", list(checks.COMBINATIONS) + ["single"])
        known = [*checks.COMBINATIONS, "single"]
        return combine in checks.names(only, known, f"attacks.{name}.only")

    def recipe(self, name: str, own: Entry, owner: str = "") -> tuple[Entry, int]:
        """Recipe `name` < its `owner`'s `own` keys < the scale; and the epochs before the scale."""
        _, entry = self.entry("recipes", name)
        where, types = owner if own else f"recipes.{name}", self.recipe_types
        merged = {**checks.USUAL, **entry, **own}
        fields = values.coerce(merged, types, where, eps_factor=Fraction(1))
        checks.recipe(fields, where)
        checks.rate(fields, {*own, *self.section("recipes")[name]}, where)

        before, cut = fields["epochs"], self.recipe_cut(name)
        # Only to refuse a scale that would lengthen the training.
        self.cut("recipes", name, {"epochs": entry["epochs"]})
        if epochs := int(cut.get("epochs", 0)):  # a scale only shrinks
            if "epochs" in own:  # longer or shorter than its recipe, as before
                epochs = max(1, round(epochs * before / entry["epochs"]))
            cut["epochs"] = min(before, epochs)
        cut = {k: shrink(k, fields[k], v, k in own) for k, v in cut.items()}
        # What validates nothing may train on these images: a cut of every recipe leaves it so.
        if not fields["validate_every"] and "validate_every" not in self.cut_of("recipes", name):
            cut.pop("validate_every", None)
        fields = values.coerce({**merged, **cut}, types, where, eps_factor=Fraction(1))
        types = {k: t for k, t in types.items() if k not in cut}
        fields = values.rescale(fields, types, before, fields["epochs"])
        checks.recipe(fields, where)
        return checks.name_recipe(fields), before

    def training(self, name: str, setting: Setting) -> tuple[Entry, int]:
        """The recipe that method `name` trains by, and its epochs before the scale."""
        root, entry = self.entry("methods", name)
        entry |= self.overrides(setting, self.component("methods", root).types)
        own = {k: v for k, v in entry.items() if k in self.recipe_types}
        return self.recipe(setting.recipe, own, f"methods.{name}")

    def method(self, name: str, setting: Setting) -> tuple[Resolved, Entry]:
        """A method's own fields, epochs rescaled, and the recipe it trains by."""
        key = ("method", name, setting.dataset, setting.recipe, setting.overrides)
        return self.once(key, lambda: self._method(name, setting))

    def _method(self, name: str, setting: Setting) -> tuple[Resolved, Entry]:
        root, entry = self.entry("methods", name)
        types = self.component("methods", root).types
        entry |= self.overrides(setting, types)
        others = {*self.recipe_types, *checks.BESIDE["methods"]}
        entry = {k: v for k, v in entry.items() if k not in others}
        if setting.eps is not None and types.get("eps") == "Radius":
            entry["eps"] = setting.eps  # of a method that crafts by itself

        recipe, before = self.training(name, setting)
        factor = self.stand_in(setting.dataset)[1]
        values.only(entry, {*types, *self.recipe_types}, f"methods.{name}")  # what both may be
        resolved = self.resolve("methods", name, entry, factor)
        checks.epochs(resolved.fields, types, before, f"methods.{name}")
        fields = values.rescale(resolved.fields, types, before, recipe["epochs"])
        return Resolved(name, root, fields, resolved.code), recipe

    def overrides(self, setting: Setting, types: Entry) -> Entry:
        """The axis values that a component with these fields, or its recipe, knows."""
        return {k: v for k, v in setting.overrides if k in types or k in self.recipe_types}

    def members(self, kind: str, name: str, setting: Setting) -> int:
        """How many members: the entry's own number, or the table's."""
        own = self.entry(kind, name)[1].get("members", setting.members)
        return checks.members(own, f"{kind}.{name}.members")
