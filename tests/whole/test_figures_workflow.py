"""Figures end to end: every kind from trained victims, and what the workflow draws again."""

import copy
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from projects import command as call
from projects import copy_project, edit, jobs, logs, run, tiny_params

from pipeline import evaluate, figure
from pipeline.errors import UserError
from pipeline.flags.evidence import read
from pipeline.plan import Plan
from pipeline.share import record, writer
from pipeline.store.records import pack, read_arrays

SHARED = {"table": "table1", "where": {"seed": 0}}
FROM_WEIGHTS = {**SHARED, "suites": [], "rows": ["pgd_at", "soe"], "seed": 0}
GRID = {"half": 1, "images": 20, "members": 1}
KINDS = {
    "curves": {**SHARED, "rows": ["pgd_at", "to_come"], "suites": ["sweep"], "along": "eps",
               "symbol": "eps", "spacing": "log", "show": "each"},
    "histogram": {**SHARED, "rows": ["pgd_at", "soe"], "suites": ["unified"],
                  "columns": ["clean", "pgd10"], "bins": 8},
    "trade_off": {**SHARED, "rows": ["pgd_at", "soe"], "suites": ["unified"]},
    "peers": {**SHARED, "rows": ["pgd_at", "soe"], "suites": [], "attack": "pgd10", "images": 30},
    "image_landscape": {**FROM_WEIGHTS, **GRID, "radius": "8/255"},
    "weight_landscape": {**FROM_WEIGHTS, **GRID, "attack": "fgsm", "span": 0.5},
    "regions": {**FROM_WEIGHTS, "radius": "4/255", "half": 2, "shown": 1},
    "particles": {**SHARED, "rows": ["pgd_at"], "suites": [], "attacks": ["svgd", "svgd_pgd"],
                  "images": 5, "reported": "at_aka", "printed": 1},
}  # fmt: skip


def named(kind):
    """A figure's name; an underscore would put it into a folder."""
    return kind.replace("_", "")


def entry_of(kind, **changed):
    return copy.deepcopy({"kind": kind, "title": f"A {kind}", **KINDS[kind], **changed})


def asked():
    """A table of two ensembles, and a figure of each kind."""
    found = tiny.table_of(["pgd_at", "soe"], members=[2])
    found["planned"] = ["to_come"]
    found["recipes"]["unified"]["lr"] = 0.05
    found["scales"]["demo"]["recipe"] |= {"epochs": 4, "train_images": 240}
    found["suites"]["sweep"] = {"attacks": ["fgsm"], "eps": [0, "2/255", "8/255"]}
    for name in ("svgd", "svgd_literal", "svgd_pgd"):
        found["scales"]["demo"]["attacks"][name] = {"steps": 3, "particles": 3}
    found["figures"] = {named(kind): entry_of(kind) for kind in KINDS}
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the weights and records of the figures."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        plan = tiny.place(folder, patch, asked())
        shutil.copytree(tiny.ROOT / "data/reported", "data/reported")
        for row in ("pgd_at", "soe"):
            tiny.trained(plan, row, members=2)
        for name in ("curves", "histogram"):
            for record in plan.needs(plan.figures[name])[0]:
                if not record.path.exists():
                    evaluate.evaluate(plan, record, tiny.CPU)
    return folder


@pytest.fixture
def plan(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return Plan(asked())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_from_trained_victims_and_to_the_same_bytes_again(plan, kind):
    name = named(kind)
    drawn = plan.figures[name]
    figure.main([f"results/{name}.png"])
    assert drawn.is_here()
    about = json.loads(drawn.path.with_suffix(".json").read_text())
    assert (about["receipt"]["plan"], about["receipt"]["scale"]) == (drawn.digest, "demo")
    assert about["receipt"]["rests_on"]
    assert about["planned"] == (["to_come"] if kind == "curves" else [])
    frame = pd.read_csv(drawn.path.with_suffix(".csv"))
    rows = {"pgd_at"} if kind in ("curves", "particles") else {"pgd_at", "soe"}
    assert set(frame["row"]) == rows and len(frame) >= 2
    first = {p.name: p.read_bytes() for p in drawn.path.parent.glob(f"{name}.*")}
    assert set(first) == {f"{name}.{s}" for s in ("png", "pdf", "csv", "json")}
    drawn.path.unlink()
    figure.main([f"results/{name}.csv"])
    assert {p.name: p.read_bytes() for p in drawn.path.parent.glob(f"{name}.*")} == first


def test_a_surface_over_images_has_the_recorded_loss_in_its_middle(plan):
    figure.main(["imagelandscape"])
    frame = pd.read_csv("results/imagelandscape.csv")
    record = next(c for c in plan.figures["histogram"].cells if c.row == "pgd_at").records[
        "unified"
    ]
    arrays = read(record)
    middle = frame[(frame["along"] == 0) & (frame["across"] == 0) & (frame["row"] == "pgd_at")]
    whole = middle[middle["of"] == "all members"]["loss"].iloc[0]
    assert whole == pytest.approx(float(arrays["clean/loss"][:20].mean()), rel=1e-5)


def test_an_up_to_date_figure_is_left_alone_and_an_unknown_one_is_one_line(plan, capsys):
    figure.main(["curves"])
    figure.main(["curves"])
    assert capsys.readouterr().out == "results/curves.png: is up to date, nothing to do\n"
    with pytest.raises(UserError, match="no figure 'curvs' .nearest: curves"):
        figure.main(["curvs"])
    changed = asked()
    changed["figures"] = {"curves": entry_of("curves", rows=["to_come"])}
    figure_of_none = Plan(changed)
    with pytest.raises(UserError, match="figures.curves: every row is planned; none to draw"):
        figure.draw(figure_of_none, figure_of_none.figures["curves"])


def test_records_on_which_a_failing_check_fires_make_no_figure(plan):
    (cell,) = [c for c in plan.figures["histogram"].cells if c.row == "soe"]
    path = cell.records["unified"].path
    arrays = read_arrays(path)
    about = {**json.loads(str(arrays["meta"])), "untouched": False}
    tiny.replace(path, pack({**arrays, "meta": np.array(json.dumps(about))}))
    with pytest.raises(UserError, match=f"{path.parent}: C18: suite unified changed weights"):
        figure.main(["histogram"])
    assert not Path("results/histogram.png").exists()


def test_a_table_may_vary_words_where_its_figure_varies_something_else(tmp_path, monkeypatch):
    found = tiny.table_of(["standard"], reference="none", suites=["unified"], columns=["clean"])
    found["tables"]["table1"]["augment"] = words = ["dataset", "autoaugment"]
    found["suites"]["unified"] = {"attacks": ["fgsm"], "eps": ["1/255", "8/255"]}
    found["figures"] = {"curves": entry_of("curves", rows=["standard"], suites=["unified"])}
    found["scales"]["demo"]["recipe"] |= {"epochs": 1, "train_images": 64}
    plan = tiny.place(tmp_path, monkeypatch, found)
    tiny.made(plan, ["standard"])
    figure.main(["curves"])
    frame = pd.read_csv("results/curves.csv")
    assert frame["row"].unique().tolist() == [f"standard augment={word}" for word in words]
    assert frame["seeds"].tolist() == [1] * 4


def test_todays_figures_are_remembered_and_others_named(plan):
    figure.main(["curves"])
    files, stale = record.stage_targets(plan, {})
    assert sorted(map(str, files)) == [f"results/curves.{s}" for s in ("csv", "json", "pdf", "png")]
    assert stale == []
    changed = asked()
    changed["figures"]["curves"]["title"] = "Another"
    files, (left,) = record.stage_targets(Plan(changed), {})
    assert files == [] and left.startswith("results/curves.png: is not up to date")


# ---- the workflow

TARGETS = ("figures", "tables")


def small():
    """A table of one network, a figure from its records and one from its weights."""
    found = tiny_params()
    found["tables"]["table1"] |= {"rows": ["trades"], "reference": "none"}
    found["figures"] = {
        "histogram": entry_of("histogram", rows=["trades"], columns=["clean", "fgsm"]),
        "imagelandscape": entry_of("image_landscape", rows=["trades"], images=20),
    }
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("drawn"), small())
    done = call(folder, "snakemake", "-c1", *TARGETS)
    assert done.returncode == 0, done.stdout + logs(folder)
    return folder


@pytest.fixture
def built(first, tmp_path):
    return shutil.copytree(first, tmp_path / "project")


@pytest.mark.workflow
def test_figures_are_made_from_nothing_and_then_there_is_nothing_to_do(built):
    for name in ("histogram", "imagelandscape"):
        for suffix in (".png", ".pdf", ".csv", ".json"):
            assert (built / "results" / f"{name}{suffix}").stat().st_size > 0
    shutil.rmtree(built / ".snakemake")  # as in a clone: no metadata, other times, no weights
    now = time.time()  # of all alike: claims.md goes by times, and no clone has an order of its own
    for path in filter(Path.is_file, built.rglob("*")):
        os.utime(path, (now, now))
    for folder in ("results/runs", "data/digits", "data/raw"):
        shutil.rmtree(built / folder)
    assert jobs(built, *TARGETS) == {}
    (built / "results/imagelandscape.csv").unlink()
    assert jobs(built, "figures")["train"] == 1


RETRAINED = {"train": 1, "evaluate": 1, "plot": 1, "figure": 1, "tabulate": 1}


@pytest.mark.workflow
@pytest.mark.parametrize(
    "edits, again",
    [
        ([("bins: 8\n", "bins: 9\n")], {"plot": 1}),
        ([("half: 1\n", "half: 2\n"), ("  aute_ls5:", "  aute_ls6:")], {"figure": 1}),
        (
            [("attack: train_trades10, beta: 6}", "attack: train_trades10, beta: 2}")],
            RETRAINED | {"claims": 1, "tables": 1},
        ),
    ],
)
def test_what_changes_draws_exactly_what_shows_it(built, edits, again):
    for old, new in edits:
        edit(built, old, new)
    assert jobs(built, *TARGETS) == again | {"figures": 1}


@pytest.mark.workflow
def test_a_changed_figure_is_drawn_and_then_there_is_nothing_to_do(built):
    before = (built / "results/histogram.csv").read_bytes()
    changed = small()
    changed["figures"]["histogram"]["bins"] = 9
    writer.write(built, changed)
    run(built, "figures")
    assert (built / "results/histogram.csv").read_bytes() != before
    assert jobs(built, *TARGETS) == {}
