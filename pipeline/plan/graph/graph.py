"""Tables to victims to runs: every artifact of the plan, named by what determines it."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.graph import averaged, suites, warm
from pipeline.plan.graph import outside as adopted
from pipeline.plan.graph.artifacts import (
    Cell,
    Element,
    Record,
    Run,
    Table,
    TransferSet,
    Victim,
    tail,
)
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import ROWS, Entries, Resolved, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest, nearest

__all__ = ["Cell", "Element", "Graph", "Record", "Run", "Table", "TransferSet", "Victim"]

ATTACKS = ("attack", "validation_attack")  # fields of a recipe
PARENT_KEYS = ("method", "arch", "recipe", "members", "seed", "checkpoint")
PLACES = ("arch", "recipe", "seed", "checkpoint")  # what a victim may change of its row's setting
VICTIM_KEYS = ("of", "combine", "logit_scale", "members", "member", *PLACES, *adopted.KEYS)
SPECIAL = (adopted.FILE, suites.SAME)  # what `of` may say that is no entry


class Graph:
    """Builds runs, victims and records from entries, each once."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.runs: dict[str, Run] = {}
        self.records: dict[str, Record] = {}
        self.sets: dict[str, TransferSet] = {}
        self._victims: dict[tuple[str, Setting], Victim] = {}
        self._waiting: list[str] = []  # parents being resolved, outermost first
        self.kinds: dict[str, str] = {}
        for kind in ROWS:
            for name in entries.section(kind):
                if name in self.kinds:
                    other = self.kinds[name]
                    raise UserError(f"params.yaml: {kind}.{name}: is in {other} too; rename one")
                self.kinds[name] = kind

    # ---- victims

    def kind(self, name: str, where: str = "tables") -> str:
        """The section a row's name stands in."""
        if not isinstance(name, str) or name not in self.kinds:
            hint = nearest(name, self.kinds)
            raise UserError(f"params.yaml: {where}: {name!r} is no victim, average or method{hint}")
        return self.kinds[name]

    def victim(self, name: str, setting: Setting) -> Victim:
        """The victim that a row of this name is, in one setting."""
        key = (name, setting)
        if key not in self._victims:
            self._victims[key] = self._victim(name, setting)
        return self._victims[key]

    def _victim(self, name: str, setting: Setting) -> Victim:
        changes: Entry = {}
        trained = name
        if self.kind(name) == "victims":
            trained, changes, setting = self._changed(name, setting)
        if trained == adopted.FILE:
            run, combine = adopted.run(self, name, changes, setting)
            runs = [self.runs.setdefault(run.id, run)]
        else:
            runs, combine = self.trained(trained, setting)
        combine = changes.get("combine", combine)
        combine = checks.one_of(combine, checks.COMBINATIONS, f"{name}.combine")
        where = f"params.yaml: victims.{name}.logit_scale"
        scale = float(values.fraction(changes.get("logit_scale", 1), where))
        members = sum(r.members for r in runs)
        member = changes.get("member")
        if member is not None:
            where = f"params.yaml: victims.{name}.member"
            if values.as_int(member, where, 0) >= members:
                raise UserError(f"{where}: {member} is not one of the members 0 to {members - 1}")
            members = 1
        rule = combine if members > 1 else "single"
        elements = tuple(  # an average has one checkpoint
            Element(r.id, setting.checkpoint if r.stage == "train" else "last") for r in runs
        )
        spec = {
            "elements": [[tail(e.run), e.checkpoint] for e in elements],
            "combine": rule,
            "logit_scale": scale,
            **({"member": member} if member is not None else {}),
        }
        dataset, arch = runs[0].dataset, runs[0].arch
        id = f"{dataset.name}-{arch}-{name}-x{members}-s{setting.seed}-{digest(spec)}"
        return Victim(id, name, dataset, elements, rule, scale, members, member)

    def _changed(self, name: str, setting: Setting) -> tuple[str, Entry, Setting]:
        """What a `victims:` entry attacks, what it changes, and the setting it changes."""
        where = f"victims.{name}"
        _, entry = self.entries.entry("victims", name)
        values.only(entry, VICTIM_KEYS, where, must=("of",))
        if "members" in entry:
            setting = replace(setting, members=self.entries.members("victims", name, setting))
        if "arch" in entry:
            found = values.find(self.entries.section("archs"), f"{where}.arch", entry["arch"])
            setting = replace(setting, arch=found)
        if "recipe" in entry:
            found = values.find(self.entries.section("recipes"), f"{where}.recipe", entry["recipe"])
            setting = replace(setting, recipe=found)
        if "seed" in entry:
            seed = values.as_int(entry["seed"], f"params.yaml: {where}.seed")
            setting = replace(setting, seed=seed)
        if "checkpoint" in entry:
            found = checks.one_of(entry["checkpoint"], checks.CHECKPOINTS, f"{where}.checkpoint")
            setting = replace(setting, checkpoint=found)
        if entry["of"] != adopted.FILE and self.kind(entry["of"], f"{where}.of") == "victims":
            raise UserError(f"params.yaml: {where}.of: {entry['of']} is a victim itself")
        return str(entry["of"]), entry, setting

    def fields(self, row: str) -> set[str]:
        """The keys that an axis may vary for a row: its component's and its recipe's."""
        kind = self.kinds.get(row)
        if kind is None:
            return set()
        root, entry = self.entries.entry(kind, row)
        if kind == "victims":
            return self.fields(
                str(entry.get("of" if entry.get("of") != adopted.FILE else "method"))
            )
        own = self.entries.component(kind, root).types
        of = self.fields(str(entry.get("of"))) if kind == "averages" else set()
        return {*own, *of, *self.entries.recipe_types}

    # ---- runs

    def trained(self, name: str, setting: Setting) -> tuple[list[Run], str]:
        """The runs behind an average or a method, and how its members combine."""
        if self.kind(name) == "averages":
            return averaged.runs(self, name, setting)
        members = self.entries.members("methods", name, setting)
        method, recipe = self.entries.method(name, setting)
        combine = method.fields["combine"]
        if method.fields["joint"] or members == 1:
            seed = setting.seeds(1)[0]
            return [self._train(method, recipe, setting, members, seed)], combine
        seeds = setting.seeds(members)
        return [self._train(method, recipe, setting, 1, s) for s in seeds], combine

    def _train(
        self, method: Resolved, recipe: Entry, setting: Setting, members: int, seed: int
    ) -> Run:
        entries = self.entries
        stand_in, factor = entries.stand_in(setting.dataset)
        dataset, arch = entries.dataset(stand_in), entries.arch(setting.arch)
        fields = dict(method.fields)
        if members == 1:  # how members meet is no part of what one member learns
            fields |= {"joint": False, "combine": "single"}
        types = self.entries.component("methods", method.component).types
        edges = {
            k: self._parent(fields[k], setting)
            for k, t in types.items()
            if t == "Parent" and fields[k] != "none"
        }
        archs = self._archs(method, setting)
        start, file = warm.spec(entries, method.name)
        own = {
            k: self._crafting(fields[k], factor, setting.eps)
            for k, t in types.items()
            if t == "Attack"
        }
        spec: Entry = {
            "stage": "train",
            "core": entries.core["train"],
            "data": dataset.digest,
            "arch": arch.spec,
            "method": {**method.spec, "fields": fields},
            "recipe": {k: v for k, v in recipe.items() if k not in ATTACKS},
            **{k: self._crafting(recipe[k], factor, setting.eps) for k in ATTACKS},
            "threads": entries.threads,
            "members": members,
            "seed": seed,
            "parents": {k: tail(v.id) for k, v in edges.items()},
            **({"attacks": own} if own else {}),  # of the method itself
            **({"archs": archs} if archs else {}),
            **start,
        }
        id = f"{dataset.name}-{arch.name}-{method.name}-s{seed}-{digest(spec)}"
        parents = tuple(e.run for v in edges.values() for e in v.elements)
        run = Run(id, "train", method.name, dataset, arch.name, spec, members, parents, edges, file)
        return self.runs.setdefault(id, run)

    def _crafting(self, name: str, factor: Fraction, eps: Any) -> Entry | None:
        """The spec of an attack used in training, which differentiates what is trained."""
        if name == "none":
            return None
        if self.entries.surrogate(name) != "self":
            raise UserError(f"params.yaml: attacks.{name}: has a surrogate; not for training")
        return self.entries.named_attack(name, factor, eps).spec

    def _archs(self, method: Resolved, setting: Setting) -> Entry:
        """Specs of the archs that a method's Arch fields name; `same` is the row's own."""
        types = self.entries.component("methods", method.component).types
        named = {k: method.fields[k] for k, t in types.items() if t == "Arch"}
        return {
            k: self.entries.arch(setting.arch if v == "same" else v).spec for k, v in named.items()
        }

    def _parent(self, name: str, setting: Setting) -> Victim:
        where = f"parents.{name}"
        _, entry = self.entries.entry("parents", name)
        values.only(entry, PARENT_KEYS, where, must=("method",))
        self.kind(entry["method"], f"{where}.method")
        if name in self._waiting:
            raise UserError(f"params.yaml: {where}: would be trained from itself")
        self._waiting.append(name)
        victim = self.victim(entry["method"], self._parent_setting(entry, where, setting))
        self._waiting.pop()
        return victim

    def _parent_setting(self, entry: Entry, where: str, setting: Setting) -> Setting:
        """The row's setting with the keys of an entry of `parents:`."""
        own = {k: entry[k] for k in PARENT_KEYS[1:] if k in entry}
        if isinstance(own.get("arch"), dict):  # one arch per data set
            own["arch"] = own["arch"].get(setting.dataset, setting.arch)
        for key in {"arch", "recipe"} & own.keys():
            values.find(self.entries.section(f"{key}s"), f"{where}.{key}", own[key])
        checks.parent(own, where)
        return replace(setting.bare(), **own)

    # ---- records

    def record(self, victim: Victim, suite: str, setting: Setting, images: int) -> Record:
        """The record of one suite on one victim."""
        return suites.record(self, victim, suite, setting, images)
