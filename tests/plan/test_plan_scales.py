"""Every scale of params.yaml: stand-ins scale radii, fewer epochs scale epochs, nothing grows."""

import functools
import json
from pathlib import Path

import pytest
from projects import published, small

from pipeline.errors import UserError
from pipeline.plan import Plan, workflow
from pipeline.plan.params.entries import Entries, Setting
from pipeline.plan.params.schema import component
from pipeline.plan.params.values import fraction
from pipeline.plan.params.words import digest

SCALES = list(published()["scales"])
MORE = ("lunch", "smoke")  # as short is, with other numbers
SEVERAL = [pytest.param(s, marks=[pytest.mark.thorough] if s in MORE else []) for s in SCALES]


@functools.cache
def plan_of(scale):
    return Plan(published() | {"scale": scale})


def radii(spec, kind):
    """Radius fields of a component's spec, those it hands on to a foreign constructor included."""
    types = component(kind, spec["component"]).types
    found = {k: spec["fields"][k] for k, t in types.items() if t == "Radius"}
    for own in (spec["fields"][k] for k, t in types.items() if t == "Arguments"):
        found |= {k: own[k] for k in ("eps", "alpha") if k in own}
    return found


def stated(plan, section, name, key):
    """A key of an entry as the file states it for this scale, as an exact number."""
    cut = plan.entries.part(section).get(name, {}) if section == "attacks" else {}
    entry = {**plan.entries.entry(section, name)[1], **cut}
    text = str(entry[key]).replace(" ", "")
    if text.startswith("eps/"):
        return fraction(entry["eps"], "") / fraction(text.removeprefix("eps/"), "")
    return fraction(entry[key], "")


def evaluated(plan):
    """Cells and the attacks on them whose radii are the attack entry's own."""
    for cell in (c for table in plan.tables.values() for c in table.cells if not c.setting.eps):
        for suite, record in cell.records.items():
            entry = plan.entries.section("suites")[suite]
            if "eps" not in entry and "surrogates" not in entry:
                yield from ((cell, name, spec) for name, spec in record.attacks)


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_the_audit_rests_on_records_of_the_papers_own_tables(scale):
    """A scale cuts the tables that it names, and none that is based on them."""
    tables = plan_of(scale).tables
    for name in (n for n in tables if n.endswith("_gain")):
        paper = name.removesuffix("_gain")
        own = {r.id for n, t in tables.items() if n.startswith(f"{paper}_") and n != name
               for cell in t.cells for r in cell.records.values()}  # fmt: skip
        asked = {r.id for cell in tables[name].cells for r in cell.records.values()}
        assert asked and asked <= own, (name, sorted(asked - own)[:3])


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_resolves_every_table(scale):
    plan = plan_of(scale)
    assert set(plan.entries.section("tables")) <= set(plan.tables)
    for table in plan.tables.values():
        assert table.cells and plan.table(str(table.path)) is table
        records, runs = plan.needs(table)
        ids = [run.id for run in runs]
        assert all(ids.index(p) < i for i, run in enumerate(runs) for p in run.parents)
        assert {e.run for r in records for e in r.victim.elements} <= set(ids)


def steps_to_the_edge(spec):
    """By name, how often an attack's steps together are as long as its radius is."""
    found = {}
    for name, attack in spec.items():
        own = attack["fields"]
        if own.get("eps") and {"step_size", "steps"} <= set(own):
            found[name] = own["steps"] * own["step_size"] / own["eps"]
    return found


@pytest.mark.parametrize("scale", SEVERAL)
def test_every_attack_can_cross_its_ball(scale):
    """Whatever radius an axis or a stand-in gives it: a literal step does not follow."""
    plan, seen = plan_of(scale), {}
    for table in plan.tables.values():
        records, runs = plan.needs(table)
        for record in records:
            seen[record.id] = steps_to_the_edge(dict(record.attacks))
        for run in runs:
            named = {k: run.spec[k] for k in ("attack", "validation_attack") if run.spec.get(k)}
            seen[run.id] = steps_to_the_edge(named)
    short = {(i, name) for i, found in seen.items() for name, times in found.items() if times < 1}
    assert len(seen) > 50 and not short


@pytest.mark.parametrize("scale", SEVERAL)
def test_the_factor_of_a_stand_in_multiplies_every_radius_of_evaluation(scale):
    plan, seen = plan_of(scale), 0
    for cell, name, spec in evaluated(plan):
        factor = plan.entries.stand_in(cell.setting.dataset)[1]
        for key, found in radii(spec, "attacks").items():
            assert found == float(stated(plan, "attacks", name, key) * factor), (name, key)
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("scale", SEVERAL)
def test_the_factor_multiplies_the_radii_of_a_sweep(scale):
    plan, seen = plan_of(scale), 0
    for cell in (c for table in plan.tables.values() for c in table.cells):
        for suite, record in cell.records.items():
            asked = plan.entries.section("suites")[suite].get("eps", [])
            factor = plan.entries.stand_in(cell.setting.dataset)[1]
            wanted = [float(fraction(eps, "") * factor) for eps in asked]
            found = [spec["fields"]["eps"] for _, spec in record.attacks] if asked else []
            assert found == wanted * (len(found) // max(len(wanted), 1))
            seen += len(found)
    assert seen > 5


def trainings(plan):
    """Every cell with each training behind it, and the average of that training or None."""
    for cell in (c for table in plan.tables.values() for c in table.cells if c.victim):
        for run in (plan.run(e.run) for e in cell.victim.elements):
            is_average = run.stage == "average"
            yield cell, plan.run(run.parents[0]) if is_average else run, run if is_average else None


@pytest.mark.parametrize("scale", SEVERAL)
def test_the_factor_multiplies_every_radius_of_training(scale):
    plan, seen = plan_of(scale), 0
    for cell, run, _ in trainings(plan):
        if cell.setting.eps:
            continue
        factor = float(plan.entries.stand_in(cell.setting.dataset)[1])
        recipe = plan.entries.method(run.entry, cell.setting)[1]
        parts = [("attacks", recipe[k], run.spec[k]) for k in ("attack", "validation_attack")]
        for kind, name, spec in [*parts, ("methods", run.entry, run.spec["method"])]:
            assert (spec is None) == (name == "none")
            for field, found in radii(spec, kind).items() if spec else ():
                exact = float(stated(plan, kind, name, field))
                assert found == pytest.approx(exact * factor, rel=1e-15)
                seen += 1
    assert seen > 100


def epochs_of(fields, types):
    """Epoch values of a component by field, as lists."""
    found = {}
    for key, kind in types.items():
        if kind in ("Epoch", "list[Epoch]"):
            found[key] = fields[key] if kind != "Epoch" else [fields[key]]
    return found


def check_epochs(before, after, old, new):
    """Epochs moved with the length of training: at least 1, order kept, 0 stays."""
    assert after.keys() == before.keys()
    flat = [(b, a) for k in before for b, a in zip(before[k], after[k], strict=True)]
    for b, a in flat:
        assert (a == 0) if b == 0 else a >= 1
        assert a == b if old == new else a in (0, 1) or abs(a - b * new / old) <= 0.5
    for (b1, a1), (b2, a2) in ((x, y) for x in flat for y in flat):
        assert b1 > b2 or a1 <= a2


@pytest.mark.parametrize("scale", SCALES)
def test_epochs_of_recipes_methods_and_averages_follow_the_length_of_training(scale):
    plan, paper = plan_of(scale), plan_of("paper")
    lengths = set()
    for cell, run, average in trainings(plan):
        method, recipe = paper.entries.method(run.entry, cell.setting)
        old, new = recipe["epochs"], run.spec["recipe"]["epochs"]
        lengths.add((old, new))
        types = plan.entries.recipe_types.items()
        types = {k: t for k, t in types if k not in plan.entries.part("recipe")}
        parts = [(types, recipe, run.spec["recipe"])]
        types = component("methods", method.component).types
        parts.append((types, method.fields, run.spec["method"]["fields"]))
        if average:
            fields = paper.entries.entry("averages", average.entry)[1]
            types = component("averages", average.spec["average"]["component"]).types
            own = {**fields, **dict(cell.setting.overrides)}
            parts.append((types, own, average.spec["average"]["fields"]))
        for types, before, after in parts:
            check_epochs(epochs_of(before, types), epochs_of(after, types), old, new)
    assert all(1 <= new <= old for old, new in lengths)
    assert scale == "paper" or any(new < old for old, new in lengths)


@pytest.mark.parametrize("scale", SCALES)
def test_no_scale_asks_for_more_than_the_paper(scale):
    plan, paper = plan_of(scale), plan_of("paper")
    for name in plan.entries.section("tables"):
        small, large = plan.table(name), paper.table(name)
        assert {c.row for c in small.cells} <= {c.row for c in large.cells}
        assert {c.seed for c in small.cells} <= {c.seed for c in large.cells}
        assert len(small.cells) <= len(large.cells)
        assert small.spec["entry"]["images"] <= large.spec["entry"]["images"]
        assert set(small.columns) <= set(large.columns)


@pytest.mark.parametrize("scale, factor", [("paper", 1), ("demo", 6.375)])
def test_an_axis_of_radii_reaches_methods_that_craft_by_themselves(scale, factor):
    params = published() | {"scale": scale}
    params["scales"]["paper"] = {}
    table = params["tables"]["soe_table1"]
    params["tables"] = {"table1": {**table, "rows": ["at_aka", "soe_100"], "train_eps": [0.04]}}
    params["figures"] = {}
    for entry in params["scales"].values():
        entry.pop("tables", None)
        entry.pop("figures", None)
    runs = Plan(params).graph.runs.values()
    (own,) = {r.spec["method"]["fields"]["eps"] for r in runs if r.entry == "at_aka"}
    (crafted,) = {r.spec["attack"]["fields"]["eps"] for r in runs if r.entry == "soe_100"}
    assert own == crafted == pytest.approx(0.04 * factor)


def test_a_number_of_epochs_of_ones_own_is_cut_in_proportion():
    """A method that trains half as long as its recipe does so at every scale."""
    params = published()
    half = {"base": "pgd_at", "epochs": 60}
    params["methods"]["half"] = half | {"milestones": [40, 50]}
    setting = Setting("cifar10", "resnet20", "unified", 1, 0)
    for scale, wanted in (("paper", 60), ("demo", 5)):
        entries = Plan(params | {"scale": scale}).entries
        assert entries.method("half", setting)[1]["epochs"] == wanted

    params["methods"]["half"] = half  # its rate would never fall: the recipe's milestones are later
    with pytest.raises(UserError, match="methods.half.milestones: 100 lies behind the last epoch"):
        Plan(params).entries.method("half", setting)


def test_keys_of_ones_own_are_not_lengthened_by_a_scale_and_stay_off():
    params = published() | {"scale": "smoke"}
    params["scales"]["smoke"]["recipe"] |= {"batch_size": 64, "momentum": 0.5}
    own = {"batch_size": 32, "train_images": 1000, "validate_every": 5, "momentum": 0.8}
    params["methods"]["small"] = {"base": "pgd_at", **own}
    params["methods"]["large"] = {"base": "pgd_at", "batch_size": 256, "train_images": 0}
    params["methods"]["off"] = {"base": "pgd_at", "validate_every": 0, "held_out": "if_validated"}
    entries = Plan(params).entries

    def trained_by(name, recipe="unified"):
        return entries.method(name, Setting("cifar10", "resnet20", recipe, 1, 0))[1]

    found = trained_by("small")
    assert {key: found[key] for key in own} == {**own, "validate_every": 2}
    large = trained_by("large")
    assert [large[k] for k in ("batch_size", "train_images", "momentum")] == [64, 2000, 0.5]
    for off in (trained_by("off"), trained_by("pgd_at", "aute")):  # the recipe's own, too
        assert (off["validate_every"], off["held_out"]) == (0, "if_validated")

    # unless the scale names that very recipe
    params["scales"]["smoke"]["recipes"] = {"aute": {"validate_every": 1}}
    entries = Plan(params).entries
    assert trained_by("pgd_at", "aute")["validate_every"] == 1


@pytest.mark.parametrize(
    ("scale", "key", "own", "cut"),
    [("smoke", "train_images", 500, 2000), ("demo", "batch_size", 32, 64)],
)
def test_a_recipes_own_count_is_never_raised_by_a_scale(scale, key, own, cut):
    params = published() | {"scale": scale}
    assert params["scales"][scale]["recipe"][key] == cut
    setting = Setting("cifar10", "resnet20", "mine", 1, 0)
    for stated, wanted in ((own, own), (10 * cut, cut)):
        params["recipes"]["mine"] = {"base": "unified", key: stated}
        assert Entries(params).method("pgd_at", setting)[1][key] == wanted


def test_an_axis_of_training_radii_leaves_attacks_in_other_balls_as_they_are():
    entries = plan_of("paper").entries
    setting = Setting("cifar10", "resnet20", "unified", 1, 0, overrides=(("train_eps", "4/255"),))
    radius = {n: entries.attack_in(n, 1, setting).fields["eps"] for n in ("pgd10", "pgd_l2")}
    assert radius == {"pgd10": 4 / 255, "pgd_l2": 128 / 255}
    assert entries.attack_in("pgd_l2", 1, setting, "1/2").fields["eps"] == 0.5  # a sweep's


def test_a_table_of_training_radii_may_show_attacks_without_one():
    """`fog` and `deepfool` are bounded by no ball, so the axis says nothing to them."""
    params = small(["pgd_at"])
    suites = published()["suites"]
    params["suites"] |= {name: suites[name] for name in ("unseen", "minimal")}
    table = {"suites": ["unified", "unseen", "minimal"], "train_eps": ["4/255"], "members": [1]}
    params["tables"]["table1"] |= {**table, "reference": "none"}
    (cell,) = Plan(params).table("table1").cells
    found = {n: spec["fields"] for record in cell.records.values() for n, spec in record.attacks}
    assert {n for n, fields in found.items() if "eps" not in fields} > {"fog", "deepfool"}
    for name in ("fgsm", "pgd10"):
        assert found[name]["eps"] == pytest.approx(
            4 / 255 * 6.375
        )  # of the data set that stands in


def test_a_scales_cut_of_one_recipe_is_nearer_than_that_of_all():
    params = published() | {"scale": "demo"}
    demo = params["scales"]["demo"]
    demo["recipe"], demo["recipes"] = {"epochs": 10, "batch_size": 64}, {"aute": {"epochs": 4}}
    entries = Plan(params).entries
    found = {
        name: entries.method("pgd_at", Setting("cifar10", "resnet20", name, 1, 0))[1]
        for name in ("unified", "aute", "aute_deep")
    }
    assert [found[n]["epochs"] for n in found] == [10, 4, 4]  # aute_deep is based on aute
    assert {r["batch_size"] for r in found.values()} == {64}
    assert found["aute"]["milestones"] == [3, 3]  # 80 and 100 of 120


def test_tables_made_apart_are_not_among_all_tables():
    plan = plan_of("demo")
    names = {Path(t).stem for t in workflow.uncut_tables(plan)}
    assert "strength" in plan.tables and not {n for n in names if n.startswith("strength")}
    assert "table1_all" in names and len(names) >= 20


def test_resources_are_no_part_of_any_name():
    params = published()
    params["resources"] = {}
    bare, plan = Plan(params), plan_of(params["scale"])
    assert list(bare.graph.runs) == list(plan.graph.runs)
    assert list(bare.graph.records) == list(plan.graph.records)
    assert [t.digest for t in bare.tables.values()] == [t.digest for t in plan.tables.values()]


def test_specs_are_plain_json():
    plan = plan_of("demo")
    specs = [r.spec for r in [*plan.graph.runs.values(), *plan.graph.records.values()]]
    for spec in [*specs, *(t.spec for t in plan.tables.values())]:
        text = json.dumps(spec, allow_nan=False)
        assert digest(json.loads(text)) == digest(spec)
