"""docs/add-a-*.md: every file and entry written out there is laid in a project, and works."""

import ast
import csv

import matplotlib.image
import pages
import pandas as pd
from projects import small


def tiny_table(**changed):
    """Parameters of one table whose rows have one member and two epochs."""
    params = small(["pgd_at"], 20, epochs=2, train_images=64, validate_every=0)
    params["tables"]["table1"] |= {"members": [1], "reference": "pgd_at", **changed}
    params["scales"]["demo"]["attacks"]["pgd10"] = {"steps": 2}
    return params


def accuracies(rows, *columns):
    """The numbers of a table's columns, fractions all."""
    found = [float(row[column]) for row in rows.values() for column in columns]
    assert all(0 <= value <= 1 for value in found)
    return found


def test_every_method_of_the_page_is_trained_and_judged(tmp_path):
    page = "add-a-method.md"
    names = {path.split("/")[-1].removesuffix(".py") for path in pages.files(page)}
    assert names == {"smooth", "taught", "two_balls", "remembering", "adam_at"}
    rows = pages.make(pages.lay(tmp_path, page, tiny_table()))
    assert set(rows) == {"pgd_at", "smooth3", *names}
    accuracies(rows, "clean", "pgd10")


def test_the_attacks_of_the_page_are_run_and_the_far_one_is_the_stronger(tmp_path):
    rows = pages.make(pages.lay(tmp_path, "add-an-attack.md", tiny_table()))
    assert set(rows) == {"standard", "pgd_at"}
    accuracies(rows, "clean", "least_likely", "least_likely_far", "jitter", "pgd10")
    assert all(float(r["least_likely_far"]) <= float(r["clean"]) for r in rows.values())


def test_the_arch_of_the_page_is_trained_in_both_widths_with_its_own_macs(tmp_path):
    project = pages.lay(tmp_path, "add-an-arch.md", tiny_table())
    pages.make(project)
    with (project / "results/mine.csv").open() as file:
        found = [(row["arch"], row["method"]) for row in csv.DictReader(file)]
    assert found == [(a, m) for a in ("mlp", "mlp_wide") for m in ("pgd_at", "trades")]

    code = (
        "from pipeline.archs.mlp import Mlp; from pipeline.core.flops import *; "
        "nets = [Mlp(width=w, depth=2).build(classes=10, channels=3, size=32, mean=[0]*3, "
        "std=[1]*3) for w in (64, 128)]; "
        "print(*[count_macs(n, 3, 32) for n in nets])"
    )
    stated = pages.merged(tiny_table(), "add-an-arch.md")["archs"]
    counted = pages.run(project, "-c", code).split()
    assert counted == [str(stated[name]["macs"]) for name in ("mlp", "mlp_wide")]


def test_the_tables_of_the_page_are_made_and_vary_what_they_list(tmp_path):
    project = pages.lay(tmp_path, "add-a-table.md", tiny_table())
    assert set(pages.make(project)) == {"pgd_at", "trades", "soe"}
    assert "is up to date" in pages.run(project, "-m", "pipeline", "plan", "results/mine.csv")
    code = (
        "from pipeline.plan import load_plan; "
        "print([(c.members, float(dict(c.setting.overrides)['lr'])) "
        "for c in load_plan().table('mine_many').cells])"
    )
    cells = ast.literal_eval(pages.run(project, "-c", code))
    assert sorted(cells) == [(1, 0.05), (1, 0.1), (2, 0.05), (2, 0.1)]


def test_both_figures_of_the_page_are_drawn(tmp_path):
    project = pages.lay(tmp_path, "add-a-figure.md", tiny_table())
    pages.make(project)
    for name, lines in (("margins", 2 * 2 * 20), ("sure", 2 * 2 * 11)):
        pages.run(project, "-m", "pipeline.figure", f"results/{name}.png")
        numbers = pd.read_csv(project / f"results/{name}.csv")
        assert set(numbers["row"]) == {"pgd_at", "trades"} and len(numbers) == lines
        assert matplotlib.image.imread(project / f"results/{name}.png").std() > 0.01
