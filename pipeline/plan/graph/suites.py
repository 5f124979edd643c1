"""Suites to records: which attacks, at which radii, from which surrogates a victim meets."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.graph.artifacts import Record, TransferSet, Victim, tail
from pipeline.plan.graph.graph import Graph
from pipeline.plan.graph.victims import SAME, TWIN, find_twin, name_victim
from pipeline.plan.params import checks, values
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.values import Entry
from pipeline.plan.params.words import digest

STORED = "set"  # component of an attack whose images are a transfer set's
KEYS = ("attacks", "stop_when_fooled", "after", "eps", "surrogates", "peers", "split")
SPLITS = ("test", "validation")
FOLDING = 2  # what attacks on users' own networks climb: at first, their own layers folded wrongly
RADIUS = Fraction(8, 255)  # within which C22 compares differences where no attack has an l_inf ball


def names(entries: Entries, suite: str) -> tuple[str, ...]:
    """Attacks of a suite as columns name them."""
    return tuple(sources(entries, suite))


def sources(entries: Entries, suite: str) -> dict[str, str]:
    """The entry of each attack of a suite, by the name that columns have for it."""
    entry = check(entries, suite)
    attacks = {name: attack for name, attack, _ in _list_attacks(entry)}
    if "surrogates" not in entry:
        return attacks
    return {f"{s}_{name}": attack for s in entry["surrogates"] for name, attack in attacks.items()}


def leaves(entries: Entries, suite: str) -> bool:
    """Whether fooled images leave the suite, so that its attacks alone are no columns."""
    return bool(check(entries, suite).get("stop_when_fooled", False))


def check(entries: Entries, suite: str) -> Entry:
    """A suite's entry, looked at once; raises UserError for a key that is none or holds nothing."""
    return entries.once(("suite's entry", suite), lambda: _check(entries, suite))


def _check(entries: Entries, suite: str) -> Entry:
    where, entry = f"suites.{suite}", entries.entry("suites", suite)[1]
    values.only(entry, KEYS, where, must=("attacks",))
    checks.names(entry["attacks"], entries.section("attacks"), f"{where}.attacks")
    if "surrogates" in entry:
        checks.names(entry["surrogates"], entries.section("victims"), f"{where}.surrogates")
    if "eps" in entry:
        _check_radii(entry["eps"], f"params.yaml: {where}.eps")

    for key in ("stop_when_fooled", "peers"):
        if not isinstance(entry.get(key, False), bool):
            raise UserError(f"params.yaml: {where}.{key}: {entry[key]!r} is not true or false")

    split = checks.one_of(entry.get("split", "test"), SPLITS, f"{where}.split")
    if split != "test" and "surrogates" in entry:
        raise UserError(f"params.yaml: {where}.split: transfer sets are of test images")
    if "surrogates" in entry:
        _refuse_own_surrogates(entries, entry, where)
    if "after" in entry:
        _check_after(entries, entry, where)

    if entry.get("stop_when_fooled") and ("eps" in entry or "surrogates" in entry):
        raise UserError(
            f"params.yaml: {where}.stop_when_fooled: a sweep or transfer suite judges every image"
        )
    return entry


def _check_radii(radii: Any, where: str) -> None:
    """Raise UserError unless a sweep's radii are numbers, each another one."""
    if not isinstance(radii, list) or not radii:
        raise UserError(f"{where}: needs a list of radii")
    for number, eps in enumerate(radii):
        if values.fraction(eps, where) in [values.fraction(e, where) for e in radii[:number]]:
            raise UserError(f"{where}: {eps} stands twice; take one off")


def _check_after(entries: Entries, entry: Entry, where: str) -> None:
    """Raise UserError unless a suite goes on from another that stops when fooled."""
    earlier = values.find(entries.section("suites"), f"{where}.after", entry["after"])
    _, other = entries.entry("suites", earlier)
    if not entry.get("stop_when_fooled") or not other.get("stop_when_fooled") or "after" in other:
        raise UserError(
            f"params.yaml: {where}.after: both suites need stop_when_fooled: true, and "
            f"{earlier} no `after` of its own"
        )
    if entry.get("split", "test") != other.get("split", "test"):
        raise UserError(f"params.yaml: {where}.after: {earlier} is of another split")


def _refuse_own_surrogates(entries: Entries, entry: Entry, where: str) -> None:
    for attack in entry["attacks"]:
        named = entries.surrogate(attack)
        if named != "self":
            raise UserError(
                f"params.yaml: {where}.attacks: {attack} has surrogate {named}, but is crafted on "
                f"{entry['surrogates'][0]}: name an attack without `surrogate:`"
            )


def has_peers(entries: Entries, suite: str) -> bool:
    """Whether its records say what every member's peers answer."""
    return bool(check(entries, suite).get("peers", False))


def split(entries: Entries, suite: str) -> str:
    """The images a suite attacks: test, or validation, on which choices may be made."""
    return str(check(entries, suite).get("split", "test"))


def _list_attacks(entry: Entry) -> Iterator[tuple[str, str, Any]]:
    """(name in the record, entry, radius or None) of each attack, at each radius of a sweep."""
    for attack in entry["attacks"]:
        if "eps" not in entry:
            yield str(attack), str(attack), None
        for eps in entry.get("eps", []):
            text = str(eps).replace("/", "_").replace(".", "p")
            yield f"{attack}_eps_{text}", str(attack), eps


def name_record(graph: Graph, victim: Victim, suite: str, setting: Setting, images: int) -> Record:
    """The record of one suite on one victim, found once: tables share most of theirs."""
    key = ("record", victim.id, suite, setting, images)
    return graph.entries.once(key, lambda: _name_record(graph, victim, suite, setting, images))


def _name_record(graph: Graph, victim: Victim, suite: str, setting: Setting, images: int) -> Record:
    entries = graph.entries
    entry = check(entries, suite)
    leave = leaves(entries, suite)
    classes = int(victim.dataset.fields["classes"])
    suited = [
        (name, attack, spec)
        for name, attack, spec in _find_suited(graph, suite, victim.combine, setting)
        if checks.compares(spec["fields"]) <= classes  # the table says which are left out
    ]

    # what is crafted on a surrogate is crafted once, whoever meets it
    sets: list[str] = []
    if "surrogates" in entry:
        attacks = []
        for surrogate, (name, _, spec) in product(entry["surrogates"], suited):
            source = _name_surrogate(graph, victim, str(surrogate), setting)
            if source is None:  # a row without a twin
                continue
            transfer_set = _name_set(graph, source, (name, spec), setting, images)
            sets.append(transfer_set.id)
            attacks.append((f"{surrogate}_{name}", _describe_set(transfer_set)))
    else:
        attacks = [(n, {**spec, "surrogate": entries.surrogate(a)}) for n, a, spec in suited]

    if not attacks:
        raise UserError(
            f"params.yaml: suites.{suite}: has no attack for {victim.entry} and {classes} classes"
        )
    checks.judged(images, victim.dataset.fields, victim.dataset.name)

    named = {"leave": "stop_when_fooled", "peers": "peers"}  # as identity has known them
    settings = {old: entry[key] for old, key in named.items() if entry.get(key)}
    if split(entries, suite) == "validation":
        recipes = [graph.runs[r].spec.get("recipe", {}) for r in _find_ancestors(graph, victim)]
        images = checks.held_out(victim.dataset.fields, recipes, f"suites.{suite}.split")
        settings["split"] = "validation"

    if any("model" in graph.runs[e.run].spec.get("arch", {}) for e in victim.elements):
        settings["folding"] = FOLDING
    if not values.find_radius(attacks):
        settings["radius"] = float(RADIUS * entries.stand_in(setting.dataset)[1])
    if has_peers(entries, suite) and victim.members == 1:
        raise UserError(f"params.yaml: suites.{suite}.peers: {victim.entry} has one member")
    before = None
    if "after" in entry:
        before = name_record(graph, victim, entry["after"], setting, images).id
        settings["after"] = tail(before)
    spec = {
        "core": entries.core["evaluate"],
        "victim": tail(victim.id),
        "data": victim.dataset.digest,
        "attacks": attacks,
        "images": images,
        "threads": entries.threads,
        **settings,
    }

    id = f"{victim.id}/{suite}-{digest(spec)}"
    record = Record(id, victim, suite, tuple(attacks), images, spec, leave, tuple(sets), before)
    return graph.records.setdefault(id, record)


def _find_suited(
    graph: Graph, suite: str, combine: str, setting: Setting
) -> list[tuple[str, str, Entry]]:
    """(name in the record, entry, spec) of the attacks for victims of this rule, found once."""
    entries = graph.entries

    def find() -> list[tuple[str, str, Entry]]:
        factor = entries.stand_in(setting.dataset)[1]
        attacks = [a for a in _list_attacks(check(entries, suite)) if entries.suits(a[1], combine)]
        return [
            (name, attack, entries.attack_in(attack, factor, setting, eps).spec)
            for name, attack, eps in attacks
        ]

    return entries.once(("suite", suite, combine, setting.dataset, str(setting.eps)), find)


def _name_set(
    graph: Graph, source: Victim, attack: tuple[str, Entry], setting: Setting, images: int
) -> TransferSet:
    """The images that an attack on a surrogate crafts, whoever is attacked with them."""
    entries, (name, spec) = graph.entries, attack

    def find() -> TransferSet:
        whole = {
            "core": entries.core["transfer"],
            "surrogate": tail(source.id),
            "data": source.dataset.digest,
            "name": name,
            "attack": spec,
            "images": images,
            "threads": entries.threads,
        }
        id = f"{source.id}-{name}-{digest(whole)}"
        return graph.sets.setdefault(id, TransferSet(id, source, name, spec, images, whole))

    return entries.once(("set", source.id, name, setting.dataset, str(setting.eps), images), find)


def _name_surrogate(graph: Graph, victim: Victim, name: str, setting: Setting) -> Victim | None:
    """A surrogate of the row's data set and arch, at its own seed; a twin is at the row's.

    None where the row has no twin.
    """
    _, entry = graph.entries.entry("victims", name)
    if entry.get("of") == TWIN:
        twin = find_twin(graph, victim.entry)
        if twin is None:
            return None
        same = replace(setting.bare(), members=victim.members)
        source, where = name_victim(graph, twin, same), f"{graph.kind(victim.entry)}.{victim.entry}"
        return _refuse_member(graph, victim, source, f"{where}.twin", "name another row, or none")

    if "seed" not in entry:
        raise UserError(f"params.yaml: victims.{name}: key seed is missing: a surrogate needs one")
    seed = values.as_int(entry["seed"], f"params.yaml: victims.{name}.seed")
    if entry.get("of") == SAME:
        source = name_victim(graph, victim.entry, replace(setting, seed=seed))
    else:
        source = name_victim(graph, name, replace(setting, overrides=()))
    return _refuse_member(graph, victim, source, f"victims.{name}", "give it another seed")


def _refuse_member(graph: Graph, victim: Victim, source: Victim, where: str, remedy: str) -> Victim:
    shared = _find_ancestors(graph, victim) & _find_ancestors(graph, source)
    if shared:
        raise UserError(
            f"params.yaml: {where}: {sorted(shared)[0]} is part of {victim.id} and cannot "
            f"be its surrogate: {remedy}"
        )
    return source


def _find_ancestors(graph: Graph, victim: Victim) -> set[str]:
    """Runs behind a victim, and the trajectories behind its averages."""
    runs = {element.run for element in victim.elements}
    for id in list(runs):
        run = graph.runs[id]
        runs |= set(run.parents) if run.stage == "average" else set()
    return runs


def _describe_set(transfer_set: TransferSet) -> Entry:
    fields = transfer_set.attack["fields"]
    return {
        "component": STORED,
        "fields": {
            "eps": values.settings_of(fields).get("eps"),
            "norm": fields.get("norm", "linf"),
        },
        "surrogate": transfer_set.surrogate.id,
        "set": transfer_set.id,
    }
