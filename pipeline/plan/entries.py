"""Entries of params.yaml resolved at a scale: data sets, archs, attacks, recipes, methods."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import schema, values
from pipeline.plan.schema import digest
from pipeline.plan.values import Entry

STAGES = ("prepare", "train", "average", "transfer", "evaluate", "tabulate")
SCALE_KEYS = {
    "base",
    "threads",
    "device",
    "stand_ins",
    "archs",
    "recipe",
    "attacks",
    "members",
    "images",
    "seeds",
    "tables",
    "gflops",
}


@dataclass(frozen=True)
class Dataset:
    """A data set as this plan prepares it; `fields` are its class's arguments."""

    name: str
    component: str
    fields: Entry
    digest: str

    @property
    def raw(self) -> Path:
        """Folder of the fetched files."""
        return Path("data/raw") / self.component

    @property
    def folder(self) -> Path:
        """Folder of the prepared arrays."""
        return Path("data") / self.name / self.digest


@dataclass(frozen=True)
class Setting:
    """What a row is trained and evaluated in. `eps_factor` scales radii for a stand-in."""

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
        return [1000 * self.seed + i for i in range(members)]


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


class Entries:
    """Access to the sections of params.yaml under the chosen scale."""

    def __init__(self, params: Entry) -> None:
        self.params = params
        unknown = [k for k in params if k not in SECTIONS]
        if unknown:
            hint = schema.nearest(unknown[0], SECTIONS)
            raise UserError(f"params.yaml: {unknown[0]}: no such section{hint}")
        self.core = self._core()
        scales = values.section(params, "scales")
        self.scale_name = str(params.get("scale", "paper"))
        if self.scale_name not in scales:
            hint = schema.nearest(self.scale_name, scales)
            raise UserError(f"params.yaml: scale: no entry {self.scale_name!r} in scales{hint}")
        if scales.get("paper") != {}:
            raise UserError("params.yaml: scales.paper: must stay {}: the file is paper scale")
        _, self.scale = values.inherit(scales, "scales", self.scale_name)
        unknown = [k for k in self.scale if k not in SCALE_KEYS]
        if unknown:
            hint = schema.nearest(unknown[0], SCALE_KEYS)
            raise UserError(
                f"params.yaml: scales.{self.scale_name}.{unknown[0]}: no such key{hint}"
            )

    def _core(self) -> dict[str, int]:
        core = self.params.get("core", {})
        if not isinstance(core, dict) or set(core) != set(STAGES):
            raise UserError(f"params.yaml: core: needs exactly {', '.join(STAGES)}")
        return {k: values.as_int(v, f"params.yaml: core.{k}") for k, v in core.items()}

    @property
    def threads(self) -> int:
        """Torch threads on the CPU: a value of the scale, since it changes bytes."""
        threads = values.as_int(self.scale.get("threads", 1), self._where("threads"))
        if threads < 1:
            raise UserError(f"{self._where('threads')}: {threads} is less than 1")
        return threads

    @property
    def device(self) -> str:
        """`cpu`, `cuda`, or `auto`: cuda where there is one."""
        device = self.scale.get("device", "auto")
        if device not in ("cpu", "cuda", "auto"):
            raise UserError(f"{self._where('device')}: {device!r} is not one of cpu, cuda, auto")
        return str(device)

    @property
    def mirror(self) -> str | None:
        """Directory or base URL that holds the raw files, for sites without internet."""
        mirror = self.params.get("mirror", "none")
        if not isinstance(mirror, str):
            raise UserError(f"params.yaml: mirror: {mirror!r} is not a folder, a URL or none")
        return None if mirror == "none" else mirror

    def _where(self, key: str) -> str:
        return f"params.yaml: scales.{self.scale_name}.{key}"

    def part(self, key: str) -> Entry:
        """A mapping of the scale, empty when it shrinks nothing there."""
        part = self.scale.get(key, {})
        if not isinstance(part, dict):
            raise UserError(f"{self._where(key)}: must be a mapping")
        return part

    # ---- data sets and stand-ins

    def stand_in(self, name: str) -> tuple[str, Fraction]:
        """The data set that stands for `name` at this scale, and its eps factor."""
        entry = self.part("stand_ins").get(name)
        if entry is None:
            return name, Fraction(1)
        where = f"{self._where('stand_ins')}.{name}"
        if not isinstance(entry, dict) or set(entry) != {"dataset", "eps_factor"}:
            raise UserError(f"{where}: needs exactly dataset and eps_factor")
        factor = values.fraction(entry["eps_factor"], f"{where}.eps_factor")
        return values.as_word(entry["dataset"], f"{where}.dataset"), factor

    def dataset(self, name: str) -> Dataset:
        """The data set of one entry of `datasets:`."""
        resolved = self.resolve("datasets", name)
        spec = {**resolved.spec, "core": self.core["prepare"]}
        return Dataset(name, resolved.component, resolved.fields, digest(spec))

    # ---- components

    def resolve(
        self,
        kind: str,
        name: str,
        *,
        factor: Fraction = Fraction(1),
        extra: Entry | None = None,
        keep: frozenset[str] = frozenset(),
    ) -> Resolved:
        """Entry `name` of section `kind` with coerced values; keys in `keep` are set aside."""
        root, entry = values.inherit(values.section(self.params, kind), kind, name)
        component = schema.component(kind, root)
        entry = {k: v for k, v in {**entry, **(extra or {})}.items() if k not in keep}
        fields = values.coerce(entry, component.types, f"{kind}.{name}", eps_factor=factor)
        return Resolved(name, root, fields, component.code)

    def arch(self, name: str) -> Resolved:
        """The arch that stands for `name` at this scale."""
        return self.resolve("archs", str(self.part("archs").get(name, name)))

    def attack(self, name: str, factor: Fraction, eps: Any = None) -> Resolved | None:
        """An attack at this scale's budget, radii scaled, `eps` in place of its own if given.

        None for `none`.
        """
        if name == "none":
            return None
        cut = {**self.part("attacks").get(name, {}), **({} if eps is None else {"eps": eps})}
        keep = frozenset({"surrogate", "only"})
        return self.resolve("attacks", name, factor=factor, extra=cut, keep=keep)

    def surrogate(self, name: str) -> str:
        """What an attack differentiates instead of the victim: see pipeline/ensemble.py."""
        _, entry = values.inherit(values.section(self.params, "attacks"), "attacks", name)
        surrogate = str(entry.get("surrogate", "self"))
        if surrogate not in SURROGATES:
            hint = schema.nearest(surrogate, SURROGATES)
            raise UserError(f"params.yaml: attacks.{name}.surrogate: no {surrogate!r}{hint}")
        return surrogate

    def suits(self, name: str, combine: str) -> bool:
        """Whether an attack is for victims of this combination: `only: [...]` names them."""
        _, entry = values.inherit(values.section(self.params, "attacks"), "attacks", name)
        only = entry.get("only", [combine])
        if not isinstance(only, list):
            raise UserError(f"params.yaml: attacks.{name}.only: needs a list of combinations")
        return combine in only

    @cached_property
    def recipe_types(self) -> dict[str, str]:
        """Fields of a recipe."""
        return schema.class_fields(schema.ROOT / "pipeline" / "recipe.py", "Recipe")

    def recipe(self, name: str, own: Entry) -> tuple[Entry, int]:
        """Recipe `name` < a method's `own` keys < the scale; and the epochs before the scale."""
        _, entry = values.inherit(values.section(self.params, "recipes"), "recipes", name)
        where = f"recipes.{name}"
        merged = {**entry, **own}
        fields = values.coerce(merged, self.recipe_types, where, eps_factor=Fraction(1))
        before = fields["epochs"]
        cut = dict(self.part("recipe"))
        if "epochs" in cut and "epochs" in own:  # longer or shorter than its recipe, as before
            cut["epochs"] = max(1, round(cut["epochs"] * before / entry["epochs"]))
        fields = values.coerce({**merged, **cut}, self.recipe_types, where, eps_factor=Fraction(1))
        types = {k: t for k, t in self.recipe_types.items() if k not in cut}
        fields = values.rescale(fields, types, before, fields["epochs"])
        self._check_recipe(fields, where)
        return fields, before

    def _check_recipe(self, fields: Entry, where: str) -> None:
        for key in ("epochs", "batch_size"):
            if fields[key] < 1:
                raise UserError(f"params.yaml: {where}.{key}: {fields[key]} is less than 1")
        if fields["milestones"] != sorted(fields["milestones"]):
            raise UserError(f"params.yaml: {where}.milestones: must not fall")
        wanted = 2 if fields["schedule"] == "one_cycle" else len(fields["milestones"])
        if len(fields["lr_values"]) != wanted:
            raise UserError(f"params.yaml: {where}.lr_values: needs {wanted} values")

    def method(self, name: str, setting: Setting) -> tuple[Resolved, Entry]:
        """A method's own fields, epochs rescaled, and the recipe it trains by."""
        root, entry = values.inherit(values.section(self.params, "methods"), "methods", name)
        component = schema.component("methods", root)
        entry = {**entry, **self._overrides(setting, component.types)}
        own = {k: v for k, v in entry.items() if k in self.recipe_types}
        rest = {k: v for k, v in entry.items() if k not in own and k != "members"}
        recipe, before = self.recipe(setting.recipe, own)
        factor = self.stand_in(setting.dataset)[1]
        fields = values.coerce(rest, component.types, f"methods.{name}", eps_factor=factor)
        fields = values.rescale(fields, component.types, before, recipe["epochs"])
        return Resolved(name, root, fields, component.code), recipe

    def _overrides(self, setting: Setting, types: Entry) -> Entry:
        known = {**types, **self.recipe_types}
        return {k: v for k, v in setting.overrides if k in known}

    def members(self, kind: str, name: str, setting: Setting) -> int:
        """How many members: the entry's own number, or the table's."""
        _, entry = values.inherit(values.section(self.params, kind), kind, name)
        where = f"params.yaml: {kind}.{name}.members"
        members = values.as_int(entry.get("members", setting.members), where)
        if members < 1:
            raise UserError(f"{where}: {members} is less than 1")
        return members


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
    "parents",
    "victims",
    "suites",
    "tables",
    "planned",
    "resources",
)
SURROGATES = (
    "self",
    "averaged",
    "mean_logit",
    "members",
    "normalised",
    "answers",
    "cooled",
    "heated",
)

__all__ = ["Dataset", "Entries", "Resolved", "Setting", "replace"]
