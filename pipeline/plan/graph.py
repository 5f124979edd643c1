"""Tables to victims to runs: every artifact of the plan, named by what determines it."""

from dataclasses import replace
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import adopted, schema, suites, values
from pipeline.plan.artifacts import Cell, Element, Record, Run, Table, TransferSet, Victim
from pipeline.plan.entries import Entries, Resolved, Setting
from pipeline.plan.schema import digest
from pipeline.plan.values import Entry

__all__ = ["Cell", "Element", "Graph", "Record", "Run", "Table", "TransferSet", "Victim"]

COMBINATIONS = ("mean_prob", "mean_logit", "vote", "max_conf", "random_one", "random_each")

PLACES = ("arch", "recipe", "seed", "checkpoint")  # what a victim may change of its row's setting


class Graph:
    """Builds runs, victims and records from entries, each once."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.runs: dict[str, Run] = {}
        self.records: dict[str, Record] = {}
        self.sets: dict[str, TransferSet] = {}
        self._victims: dict[Any, Victim] = {}

    # ---- victims

    def kind(self, name: str) -> str:
        """The section a row's name stands in."""
        for kind in ("victims", "averages", "methods"):
            if name in values.section(self.entries.params, kind):
                return kind
        names = [n for k in ("victims", "averages", "methods") for n in self.entries.params[k]]
        hint = schema.nearest(name, names)
        raise UserError(f"params.yaml: {name!r} is no victim, average or method{hint}")

    def victim(self, name: str, setting: Setting) -> Victim:
        """The victim that a row of this name is, in one setting."""
        key = (name, setting)
        if key not in self._victims:
            self._victims[key] = self._victim(name, setting)
        return self._victims[key]

    def _victim(self, name: str, setting: Setting) -> Victim:
        kind = self.kind(name)
        changes: Entry = {}
        trained = name
        if kind == "victims":
            trained, changes, setting = self._changed(name, setting)
        if trained == adopted.FILE:
            run, combine = adopted.run(self, name, changes, setting)
            runs = [run]
        else:
            runs, combine = self._runs(trained, setting)
        combine = changes.get("combine", combine)
        if combine not in COMBINATIONS:
            hint = schema.nearest(combine, COMBINATIONS)
            raise UserError(f"params.yaml: {name}.combine: no rule {combine!r}{hint}")
        scale = values.fraction(changes.get("logit_scale", 1), f"params.yaml: victims.{name}")
        members = sum(r.members for r in runs)
        member = changes.get("member")
        if member is not None:
            where = f"params.yaml: victims.{name}.member"
            if not 0 <= values.as_int(member, where) < members:
                raise UserError(f"{where}: {member} is not one of the members 0 to {members - 1}")
            members = 1
        elements = tuple(  # an average has one checkpoint
            Element(r.id, setting.checkpoint if r.stage == "train" else "last") for r in runs
        )
        spec = {
            "elements": [[e.run.rsplit("-", 1)[1], e.checkpoint] for e in elements],
            "combine": combine if members > 1 else "single",
            "logit_scale": float(scale),
            **({"member": member} if member is not None else {}),
        }
        head = f"{runs[0].dataset.name}-{self._arch(setting)}-{name}-x{members}-s{setting.seed}"
        return Victim(
            f"{head}-{digest(spec)}",
            name,
            runs[0].dataset,
            elements,
            spec["combine"],
            float(scale),
            members,
            member,
        )

    def _changed(self, name: str, setting: Setting) -> tuple[str, Entry, Setting]:
        """What a `victims:` entry attacks, what it changes, and the setting it changes."""
        _, entry = values.inherit(values.section(self.entries.params, "victims"), "victims", name)
        keys = ("of", "combine", "logit_scale", "members", "member", *PLACES, *adopted.KEYS)
        unknown = [k for k in entry if k not in keys]
        if unknown or "of" not in entry:
            problem = f"{unknown[0]}: no such key" if unknown else "key of is missing"
            raise UserError(f"params.yaml: victims.{name}: {problem}")
        if "members" in entry:
            setting = replace(setting, members=self.entries.members("victims", name, setting))
        if "seed" in entry:
            seed = values.as_int(entry["seed"], f"params.yaml: victims.{name}.seed")
            setting = replace(setting, seed=seed)
        if "arch" in entry:
            setting = replace(setting, arch=str(entry["arch"]))
        if "recipe" in entry:
            setting = replace(setting, recipe=str(entry["recipe"]))
        if "checkpoint" in entry:
            setting = replace(setting, checkpoint=str(entry["checkpoint"]))
        if setting.checkpoint not in ("last", "best"):
            raise UserError(f"params.yaml: victims.{name}.checkpoint: not one of last, best")
        return str(entry["of"]), entry, setting

    def _arch(self, setting: Setting) -> str:
        return self.entries.arch(setting.arch).name

    # ---- runs

    def _runs(self, name: str, setting: Setting) -> tuple[list[Run], str]:
        """The runs behind an average or a method, and how its members combine."""
        kind = self.kind(name)
        if kind == "averages":
            return self._average(name, setting)
        if kind != "methods":
            raise UserError(f"params.yaml: victims.{name}: cannot be the `of` of another entry")
        members = self.entries.members(kind, name, setting)
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
        dataset = entries.dataset(stand_in)
        arch = entries.arch(setting.arch)
        attack = entries.attack(recipe["attack"], factor, setting.eps)
        validation = entries.attack(recipe["validation_attack"], factor, setting.eps)
        fields = dict(method.fields)
        if members == 1:  # how members meet is no part of what one member learns
            fields |= {"joint": False, "combine": "single"}
        edges, archs = self._edges(method, setting), self._archs(method, setting)
        recipe = {k: v for k, v in recipe.items() if k not in ("attack", "validation_attack")}
        spec: Entry = {
            "stage": "train",
            "core": entries.core["train"],
            "data": dataset.digest,
            "arch": arch.spec,
            "method": {**method.spec, "fields": fields},
            "recipe": recipe,
            "attack": attack.spec if attack else None,
            "validation_attack": validation.spec if validation else None,
            "threads": entries.threads,
            "members": members,
            "seed": seed,
            "parents": {k: v.id.rsplit("-", 1)[1] for k, v in edges.items()},
            **({"archs": archs} if archs else {}),
        }
        head = f"{dataset.name}-{arch.name}-{method.name}-s{seed}"
        parents = tuple(e.run for v in edges.values() for e in v.elements)
        return self.add(
            Run(
                f"{head}-{digest(spec)}",
                "train",
                method.name,
                dataset,
                spec,
                members,
                parents,
                edges,
            )
        )

    def _edges(self, method: Resolved, setting: Setting) -> dict[str, Victim]:
        """The parents that a method's Parent fields name, as victims."""
        types = schema.component("methods", method.component).types
        named = {k: method.fields[k] for k, t in types.items() if t == "Parent"}
        return {k: self._parent(v, setting) for k, v in named.items() if v != "none"}

    def _archs(self, method: Resolved, setting: Setting) -> Entry:
        """Specs of the archs that a method's Arch fields name; `same` is the row's own."""
        types = schema.component("methods", method.component).types
        named = {k: method.fields[k] for k, t in types.items() if t == "Arch"}
        return {
            k: self.entries.arch(setting.arch if v == "same" else v).spec for k, v in named.items()
        }

    def _parent(self, name: str, setting: Setting) -> Victim:
        _, entry = values.inherit(values.section(self.entries.params, "parents"), "parents", name)
        keys = ("method", "arch", "recipe", "members", "seed", "checkpoint")
        unknown = [k for k in entry if k not in keys]
        if unknown or "method" not in entry:
            problem = f"{unknown[0]}: no such key" if unknown else "key method is missing"
            raise UserError(f"params.yaml: parents.{name}: {problem}")
        own = {k: entry[k] for k in keys[1:] if k in entry}
        if isinstance(own.get("arch"), dict):  # one arch per data set
            own["arch"] = own["arch"].get(setting.dataset, setting.arch)
        return self.victim(str(entry["method"]), replace(setting.bare(), **own))

    def _average(self, name: str, setting: Setting) -> tuple[list[Run], str]:
        entries = self.entries
        root, entry = values.inherit(values.section(entries.params, "averages"), "averages", name)
        component = schema.component("averages", root)
        if "of" not in entry:
            raise UserError(f"params.yaml: averages.{name}: key of is missing; add it")
        members = entries.members("averages", name, setting)
        known = {k: v for k, v in setting.overrides if k in component.types}
        own = {k: v for k, v in {**entry, **known}.items() if k not in ("of", "members")}
        factor = entries.stand_in(setting.dataset)[1]
        fields = values.coerce(own, component.types, f"averages.{name}", eps_factor=factor)
        inner = replace(setting, members=members)
        trajectories, combine = self._runs(str(entry["of"]), inner)
        _, recipe = entries.method(str(entry["of"]), inner)
        old = entries.recipe(setting.recipe, self._own_recipe(str(entry["of"])))[1]
        fields = values.rescale(fields, component.types, old, recipe["epochs"])
        resolved = Resolved(name, root, fields, component.code)
        return [self._averaged(resolved, t) for t in trajectories], combine

    def _own_recipe(self, name: str) -> Entry:
        _, entry = values.inherit(values.section(self.entries.params, "methods"), "methods", name)
        return {k: v for k, v in entry.items() if k in self.entries.recipe_types}

    def _averaged(self, average: Resolved, trajectory: Run) -> Run:
        spec = {
            "stage": "average",
            "core": self.entries.core["average"],
            "trajectory": digest(trajectory.spec),
            "average": average.spec,
            "data": trajectory.dataset.digest,
            "threads": self.entries.threads,
        }
        arch, seed = trajectory.id.split("-")[1], trajectory.spec["seed"]
        head = f"{trajectory.dataset.name}-{arch}-{average.name}-s{seed}"
        return self.add(
            Run(
                f"{head}-{digest(spec)}",
                "average",
                average.name,
                trajectory.dataset,
                spec,
                trajectory.members,
                (trajectory.id,),
            )
        )

    def add(self, run: Run) -> Run:
        """The run, once."""
        return self.runs.setdefault(run.id, run)

    # ---- records

    def record(self, victim: Victim, suite: str, setting: Setting, images: int) -> Record:
        """The record of one suite on one victim."""
        return suites.record(self, victim, suite, setting, images)
