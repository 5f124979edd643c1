"""Figures in the plan: which cells they show, what they rest on, when they are another figure."""

import copy
import functools
import re

import pytest
import tiny
from projects import published

from pipeline.cluster import cluster, resources
from pipeline.errors import UserError
from pipeline.plan import Figure, Plan, Table, estimate, state
from pipeline.plan.__main__ import main
from pipeline.plan.graph.targets import label
from pipeline.plan.state import closure
from pipeline.plan.workflow import artifact_of, figure_pattern, inputs, stages, table_folder
from pipeline.share import guard, unused, writer

CURVE = {"kind": "curves", "title": "Curve", "table": "sweep", "rows": ["pgd_at_single", "to_come"],
         "suites": ["sweep"], "where": {"seed": 0}, "along": "eps", "symbol": "eps",
         "spacing": "linear", "show": "each"}  # fmt: skip
REGIONS = {"kind": "regions", "title": "Regions", "table": "table1", "rows": ["pgd_at", "soe"],
           "suites": [], "where": {"seed": 0}, "radius": "8/255", "half": 5, "shown": 1,
           "seed": 0}  # fmt: skip
LANDSCAPE = {"kind": "weight_landscape", "title": "Loss", "table": "table1", "suites": [],
             "rows": ["meat"], "where": {"members": 3, "seed": 0}, "attack": "pgd10", "span": 1,
             "half": 2, "images": 5000, "members": 0, "seed": 0}  # fmt: skip
MARGINS = {"kind": "histogram", "title": "Margins", "table": "table1", "rows": ["pgd_at"],
           "suites": ["unified"], "where": {}, "columns": ["clean", "pgd10"],
           "bins": 9}  # fmt: skip


@functools.cache
def params():
    """Two tables and a figure of each layer of inputs, at demo scale."""
    found = published() | {"scale": "demo", "planned": ["to_come"]}
    found["tables"] = {name: found["tables"][name] for name in ("table1", "sweep")}
    found["tables"]["sweep"]["rows"] = ["standard", "pgd_at_single"]
    for scale in found["scales"].values():
        scale.pop("tables", None)
        scale.pop("figures", None)
    found["figures"] = {"curve": CURVE, "regions": REGIONS, "loss": LANDSCAPE}
    found["figures"]["aute_fig4"] = MARGINS
    return found


def plan_with(path="", value=None, scale=None):
    """The plan with one value of params.yaml changed."""
    changed = copy.deepcopy(params())
    if path:
        place = changed
        *parents, last = path.split(".")
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return Plan(changed | ({"scale": scale} if scale else {}))


@pytest.fixture(scope="module")
def plan():
    return plan_with()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer.write(tmp_path, params())
    return tmp_path


# ---- what a figure is


def test_a_figure_is_named_like_a_table_and_found_by_any_of_its_files(plan):
    figure = plan.figures["aute_fig4"]
    assert str(figure.path) == "results/aute/fig4.png" and figure.stem == "aute/fig4"
    for name in ("aute_fig4", "results/aute/fig4.png", "./results/aute/fig4.csv"):
        assert plan.figure(name) is plan.target(name) is figure
    assert isinstance(plan.target("results/table1.csv"), Table)
    with pytest.raises(UserError, match="no figure 'aute_fig5' .nearest: aute_fig4"):
        plan.figure("results/aute/fig5.png")


def test_a_figure_shows_its_rows_in_its_tables_settings(plan):
    cells = plan.figures["curve"].cells
    assert [(c.row, c.victim is None, c.seed) for c in cells] == [
        ("pgd_at_single", False, 0),
        ("to_come", True, 0),
    ]
    table = next(c for c in plan.tables["sweep"].cells if c.row == "pgd_at_single")
    assert cells[0].victim is table.victim and cells[0].records == table.records
    landscape = plan.figures["loss"]
    assert landscape.kind["fields"]["images"] == landscape.pool == plan.entries.scale["images"]
    assert landscape.kind["fields"]["span"] == 1
    assert plan.figures["regions"].kind["fields"]["radius"] == pytest.approx(0.2)  # of digits
    assert landscape.attacks[0]["pgd10"]["fields"]["eps"] == pytest.approx(0.2)
    assert landscape.attacks[0]["pgd10"]["surrogate"] == "self"


def test_where_picks_one_value_of_an_axis():
    changed = copy.deepcopy(params())
    changed["tables"]["axis"] = {**changed["tables"]["table1"], "train_eps": [0.01, 0.04]}
    changed["tables"]["axis"] |= {"members": [2, 3]}
    changed["figures"] = {"regions": {**REGIONS, "table": "axis", "where": {"train_eps": 0.04}}}
    figure = Plan(changed).figures["regions"]
    assert [(c.row, c.setting.eps, c.members) for c in figure.cells] == [
        ("pgd_at", 0.04, 2), ("soe", 0.04, 2), ("pgd_at", 0.04, 3), ("soe", 0.04, 3)]  # fmt: skip
    names = [{label(c, figure.cells, along).split()[0:2][-1] for c in figure.cells}
             for along in ("", "members")]  # fmt: skip
    assert names == [{"x2", "x3"}, {"train_eps=0.04"}]  # of a line along members none is said


def test_a_picture_of_weights_is_of_one_seed():
    """Two seeds of a row would be two surfaces of one name, found out when all are computed."""
    for key in ("loss", "regions"):
        changed = copy.deepcopy(params())
        del changed["figures"][key]["where"]["seed"]
        Plan(changed)  # the demo has one seed
        with pytest.raises(UserError, match=f"figures.{key}.where: needs a seed, one of 0, 1, 2"):
            Plan(changed | {"scale": "paper"})
    weights = {"kind": "weights", "title": "W", "table": "table1", "rows": ["pgd_at"]}
    weights |= {"suites": [], "where": {}, "bins": 9}
    both = plan_with("figures.loss", weights, scale="paper").figures["loss"]  # puts them together
    assert {cell.seed for cell in both.cells} == {0, 1, 2}


@pytest.mark.parametrize("scale", ["paper", "short", "smoke", "demo"])
def test_every_figure_of_the_repository_resolves_at_every_scale(scale):
    whole = Plan(published() | {"scale": scale})
    assert set(whole.figures) == set(published()["figures"])
    for figure in whole.figures.values():
        assert any(cell.victim for cell in figure.cells), figure.name
        assert figure.reads_weights or any(cell.records for cell in figure.cells)
        if figure.reads_weights and scale != "smoke":
            assert estimate.seconds(whole, [figure]) > 0
    fields = published()["figures"]["soe_fig5"]
    suite = published()["suites"][fields["suites"][0]]["attacks"]
    weights = {a: whole.entries.entry("attacks", a)[1].get("weight") for a in suite}
    seen = {
        n for c in whole.figures["soe_fig5"].cells for r in c.records.values() for n, _ in r.attacks
    }
    assert {a for a, w in weights.items() if w is not None} <= seen


# ---- what it rests on


def test_only_kinds_that_read_weights_need_them(plan):
    records, runs = plan.needs(plan.figures["curve"])
    assert len(records) == 1 and len(runs) == 1 and plan.figures["curve"].victims == ()
    records, runs = plan.needs(plan.figures["loss"])
    assert records == [] and [r.stage for r in runs] == ["train", "average"]
    asked = inputs(plan, "figure", {"figure": "loss"})
    assert asked[-2:] == [
        f"{runs[1].folder}/weights.safetensors",
        f"{runs[1].folder}/run.json",
    ]
    assert [p.rpartition("/")[2] for p in asked[:3]] == [
        f"{split}.safetensors" for split in ("train", "validation", "test")
    ]


def test_missing_weights_of_a_figure_are_pulled_when_others_have_them(here, plan):
    figure = plan.figures["regions"]
    _, runs = plan.needs(figure)
    line = guard.Line(artifact="", sha256={}, bytes=0, rests_on={}, plan="", date="", host="",
                      versions={}, seconds=9.0)  # fmt: skip
    needs = closure(plan, [figure], {str(runs[0].folder): line})
    assert list(needs.pull) == [str(runs[0].folder)]
    assert list(needs.compute)[-1] == "results/regions.png"
    assert str(runs[1].folder) in needs.compute
    records = closure(plan, [plan.figures["curve"]], {})
    assert any("records" in path for path in records.compute)
    jobs = ("figure", "plot")
    assert {artifact_of(plan, job, {"figure": "regions"}).name for job in jobs} == {"regions"}


def test_a_figure_that_is_up_to_date_needs_nothing(here, plan, capsys):
    figure = plan.figures["regions"]
    assert not figure.is_here()
    main(["results/regions.png"])
    said = capsys.readouterr().out
    assert said.startswith("results/regions.png is to be made") and "1 figure;" in said
    tiny.target_of(figure)
    assert figure.is_here()
    main(["results/regions.png"])
    said = capsys.readouterr().out
    assert said.startswith("results/regions.png is up to date") and "to make: nothing" in said
    assert "need " not in said
    assert closure(plan, [figure], {}).compute == {}
    main([])
    rows = capsys.readouterr().out.splitlines()
    assert ["up to date" in row for row in rows if "regions.png" in row] == [True]


def test_a_cluster_is_asked_for_the_figures_that_read_weights(here, plan):
    targets = list(plan.targets.values())
    rows = {row[0]: row for row in cluster.report(plan, state.states(plan, targets))}
    assert rows["figure"][1:5] == ["2", "0", "none", "16000 MB"]
    asked = resources.Resources(plan)
    assert asked.minutes("figure", plan.figures["loss"]) > asked.stage("figure")["minutes"]
    grown = {"half": 20, "images": 600}
    more = plan_with("figures.loss", {**LANDSCAPE, **grown})
    assert estimate.seconds(more, [more.figures["loss"]]) > 10 * estimate.seconds(
        plan, [plan.figures["loss"]]
    )


def test_rules_tell_figures_from_tables_by_their_names(plan):
    assert re.fullmatch(figure_pattern(plan, reads_weights=False), "aute/fig4")
    assert not re.fullmatch(figure_pattern(plan, reads_weights=True), "aute/fig4")
    path = f"results/(?P<folder>{table_folder(plan)})(?P<table>[a-z0-9_]+)\\.csv"
    assert re.fullmatch(path, "results/table1.csv") and re.fullmatch(path, "results/aute/fig44.csv")
    assert not re.fullmatch(path, "results/aute/fig4.csv")
    assert not re.fullmatch(path, "results/curve.csv") and re.fullmatch(path, "results/curves.csv")
    found = {stage: [str(t.path) for t in targets] for stage, targets in stages(plan).items()}
    assert found["paper_aute"] == ["results/aute/fig4.png"]
    assert found["picture_curve"] == ["results/curve.png"]


def test_what_a_figure_rests_on_is_not_unused(here):
    only = copy.deepcopy(params())
    only["tables"] = {"table1": only["tables"]["table1"] | {"rows": ["standard"]}}
    only["figures"] = {"loss": LANDSCAPE}
    kept = unused.needed(only)
    run = Plan(only).needs(Plan(only).figures["loss"])[1][1]
    assert str(run.folder) in kept and str(run.dataset.folder) in kept


# ---- its identity


def digests(plan):
    return {name: target.digest for name, target in plan.targets.items()}


@pytest.mark.parametrize("path, value, expected", [
    ("figures.regions.title", "Other", {"regions"}),
    ("figures.regions.half", 6, {"regions"}),
    ("figures.regions.rows", ["pgd_at", "aute"], {"regions"}),
    ("figures.loss.attack", "none", {"loss"}),
    ("attacks.pgd10.steps", 7, {"table1", "loss", "aute_fig4"}),
    ("attacks.pgd20.steps", 7, {"sweep", "curve"}),
    ("averages.meat.start", 70, {"table1", "loss"}),
    ("suites.sweep.eps", [0, "1/255"], {"sweep", "curve"}),
    ("methods.trades.beta", 3, {"table1"}),
    ("scales.demo.images", 500, {"table1", "sweep", "curve", "regions", "loss", "aute_fig4"}),
    ("scales.demo.figures", {"regions": {"half": 3}}, {"regions"}),
    ("core.figure", 99, {"curve", "regions", "loss", "aute_fig4"}),
    ("core.tabulate", 99, {"table1", "sweep"}),
    ("resources.figure.minutes", 99, set()),
])  # fmt: skip
def test_a_figure_is_another_exactly_when_what_it_shows_changes(plan, path, value, expected):
    if path == "suites.sweep.eps":  # the columns of the table follow
        changed = copy.deepcopy(params())
        changed["suites"]["sweep"]["eps"] = value
        changed["tables"]["sweep"]["columns"] = ["clean", "pgd20_eps_0", "pgd20_eps_1_255"]
        other = digests(Plan(changed))
    else:
        other = digests(plan_with(path, value))
    before = digests(plan)
    moved = {name.removesuffix("_all") for name in before if before[name] != other.get(name)}
    assert moved == expected


def test_a_kinds_own_code_is_part_of_its_figures_alone(plan, monkeypatch):
    from pipeline.plan.params import schema

    real = schema.component

    def changed(kind, name, root=schema.ROOT):
        found = real(kind, name, root)
        if (kind, name) != ("figures", "regions"):
            return found
        return schema.Component(kind, name, found.types, "other")

    monkeypatch.setattr(schema, "component", changed)
    other, before = digests(plan_with()), digests(plan)
    assert {name for name in before if before[name] != other[name]} == {"regions"}


# ---- errors


@pytest.mark.parametrize("path, value, text", [
    ("figures.curve.kind", "curve", "figures.curve.kind: 'curve' is not one of curves, histogram"),
    ("figures.curve.kind", "dots", "figures.curve.kind: 'dots' is not one of curves, histogram"),
    ("figures.curve.table", "swep", "figures.curve.table: no entry 'swep' (nearest: sweep)"),
    ("figures.curve.rows", ["pgd"], "figures.curve.rows: no entry 'pgd'"),
    ("figures.curve.rows", [], "figures.curve.rows: needs a list of names"),
    ("figures.curve.suites", ["sweeps"], "figures.curve.suites: no entry 'sweeps' (nearest"),
    ("figures.curve.where", {"seed": 7}, "figures.curve.where.seed: 7 is none of its table's: 0"),
    ("figures.curve.where", {"sed": 0}, "figures.curve.where.sed: no such part of a"),
    ("figures.curve.where", {"rows": "x"}, "figures.curve.where.rows: no such part of a table"),
    ("figures.curve.where", 3, "figures.curve.where: needs a mapping such as {members: 3}"),
    ("figures.curve.shown", 3, "figures.curve.shown: no such key (nearest: show)"),
    ("figures.curve.show", "all", "figures.curve.show: 'all' is not one of each, strongest, worst"),
    ("figures.curve.title", 3, "figures.curve.title: 3 is no line of text"),
    ("figures.regions.half", "x", "figures.regions.half: 'x' is not a whole number"),
    ("figures.regions.radius", -1, "figures.regions.radius: -1 is negative"),
    ("figures.loss.attack", "pgd11", "figures.loss.attack: no entry 'pgd11' (nearest:"),
    ("figures.loss.images", 0, "figures.loss.images: 0 is too few; write 1 or more"),
    ("figures.aute_fig4.columns", ["pgd9"], "figures.aute_fig4.columns: no entry 'pgd9'"),
    ("figures.table1", CURVE, "figures.table1: is a table too; rename one"),
    ("figures.runs_x", CURVE, "figures.runs_x: results/runs is taken; rename it"),
    ("scales.demo.figures", {"curv": {}}, "scales.demo.figures.curv: no entry 'curv'"),
    ("scales.demo.figures", {"regions": {"half": 9}}, "scales.demo.figures.regions.half: 9 is"),
    ("resources.figure.gpu", 1, "resources.figure.gpu: no such key (nearest: gpus)"),
])  # fmt: skip
def test_what_a_figure_may_not_say_is_one_line_that_names_it(path, value, text):
    with pytest.raises(UserError) as raised:
        plan_with(path, value)
    assert f"params.yaml: {text}" in tiny.line(raised)


def test_a_figure_without_a_key_and_one_of_two_data_sets_are_refused():
    entry = {k: v for k, v in CURVE.items() if k != "along"}
    with pytest.raises(UserError, match="figures.curve: key along is missing; add it"):
        plan_with("figures.curve", entry)
    changed = copy.deepcopy(params())
    changed["tables"]["sweep"]["datasets"] = ["cifar10", "mnist"]
    with pytest.raises(
        UserError, match="figures.curve.where: needs a dataset, one of cifar10, mni"
    ):
        Plan(changed)
    changed["figures"]["curve"] = {**CURVE, "where": {"dataset": "mnist", "seed": 0}}
    figure = Plan(changed).figures["curve"]
    assert isinstance(figure, Figure) and {c.setting.dataset for c in figure.cells} == {"mnist"}


@pytest.mark.parametrize("along, problem", [
    ("bogus", "along: 'bogus' is no axis of table .* and no number of an attack of its suites"),
    ("loss", "along: 'loss' is no axis of table .* and no number of an attack of its suites"),
    ("milestones", "along: milestones: .60, 80. is not a number"),
])  # fmt: skip
def test_a_figure_along_what_is_no_number_is_refused_before_anything_is_trained(along, problem):
    changed = copy.deepcopy(params())
    changed["tables"]["sweep"]["milestones"] = [[60, 80], [70, 90]]
    changed["figures"]["curve"] = {**CURVE, "along": along}
    with pytest.raises(UserError, match=f"figures.curve.{problem}"):
        Plan(changed)


def test_a_figure_of_two_splits_is_refused():
    """Accuracy on clean test images stood beside an attack's on validation images."""
    changed = copy.deepcopy(params())
    changed["suites"]["held"] = {"attacks": ["validation_margin_pgd"], "split": "validation"}
    changed["figures"]["aute_fig4"] = {**MARGINS, "suites": ["unified", "held"]}
    with pytest.raises(UserError, match="aute_fig4.suites: are of two splits, test and validation"):
        Plan(changed)
