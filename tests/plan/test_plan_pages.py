"""A paper's page: what it may say, who sees it, and that it rests on params.yaml alone."""

import re
import shutil

import pytest
import yaml
from projects import ROOT, command, copy_project, published

from pipeline.errors import UserError
from pipeline.plan import Plan, load_plan
from pipeline.plan.params.pages import pages
from pipeline.plan.params.reader import read
from pipeline.share import writer

PAPERS = [page.stem for page in pages(ROOT / "params.yaml")]


def copy_files(folder, papers):
    """params.yaml at demo scale and these papers' pages."""
    (folder / "papers").mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text()
    text = re.sub("^scale: .*", "scale: demo", text, flags=re.MULTILINE)
    (folder / "params.yaml").write_text(text)
    for paper in papers:
        shutil.copy(ROOT / "papers" / f"{paper}.yaml", folder / "papers")
    return folder / "params.yaml"


def digests(plan, paper):
    """Digests of the tables and figures of one paper; of no paper's, with paper None."""
    made = {**plan.tables, **plan.figures}
    owner = {n: next((p for p in PAPERS if n.startswith(f"{p}_")), None) for n in made}
    return {name: target.digest for name, target in made.items() if owner[name] == paper}


@pytest.fixture(scope="module")
def whole():
    return Plan(published())


@pytest.mark.parametrize("paper", [None, *PAPERS])
def test_a_paper_needs_its_page_and_params_yaml_and_no_other_page(tmp_path, whole, paper):
    plan = load_plan(copy_files(tmp_path / "one", [paper] if paper else []))
    assert digests(plan, paper) == digests(whole, paper) != {}
    for other in {None, *PAPERS} - {None, paper}:
        assert digests(plan, other) == {}


def test_a_paper_needs_no_table_of_params_yaml(whole):
    """DVC's stage of a paper does not hear of them."""
    params = published()
    for kind in ("tables", "figures"):
        of_papers = {n: e for n, e in params[kind].items() if n.startswith(tuple(PAPERS))}
        params[kind] = of_papers
        for scale in params["scales"].values():
            cuts = scale.get(kind, {})
            scale[kind] = {name: cuts[name] for name in cuts if name in of_papers}
    params["scales"]["paper"] = {}
    plan = Plan(params)
    for paper in PAPERS:
        assert digests(plan, paper) == digests(whole, paper)


@pytest.fixture
def files(tmp_path):
    return copy_files(tmp_path / "project", PAPERS)


def refusal(files, name, text):
    """What is said when a page ends in this text."""
    page = files.parent / name
    sections = yaml.safe_load(page.read_text())
    for key, value in yaml.safe_load(text).items():
        known = sections.get(key)
        sections[key] = {**known, **value} if known and value != 3 else value
    page.write_text(writer.text(sections))
    with pytest.raises(UserError) as caught:
        load_plan(files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFUSED = [
    (
        "papers/soe.yaml",
        "recipes: {aute: {base: unified}}",
        "papers/soe.yaml: recipes.aute: stands in papers/aute.yaml too; keep one",
    ),
    (
        "papers/aute.yaml",
        "methods: {trades: {beta: 5}}",
        "papers/aute.yaml: methods.trades: stands in params.yaml too; keep one",
    ),
    ("papers/aute.yaml", "scale: paper", "papers/aute.yaml: scale: concerns every paper; write it"),
    ("papers/aute.yaml", "planned: [x]", "papers/aute.yaml: planned: concerns every paper"),
    (
        "papers/soe.yaml",
        "tables: {aute_x: {base: soe_table1}}",
        "papers/soe.yaml: tables.aute_x: move it to papers/aute.yaml, or rename it",
    ),
    (
        "papers/soe.yaml",
        "tables: {other: {base: soe_table1}}",
        "papers/soe.yaml: tables.other: move it to params.yaml, or rename it",
    ),
    (
        "params.yaml",
        "tables: {red_x: {base: table1}}",
        "params.yaml: tables.red_x: move it to papers/red.yaml, or rename it",
    ),
    (
        "papers/red.yaml",
        "scales: {demo: {attacks: {pgd10: {steps: 1}}}}",
        "papers/red.yaml: scales.demo.attacks.pgd10: cuts no entry of this page",
    ),
    (
        "papers/red.yaml",
        "scales: {demo: {recipe: {epochs: 1}}}",
        "papers/red.yaml: scales.demo.recipe.epochs: cuts no entry of this page",
    ),
    ("papers/meat.yaml", "suites: 3", "papers/meat.yaml: suites: stands in params.yaml too"),
    # keys of entries: the file they stand in is named
    (
        "papers/red.yaml",
        "methods: {red_x: {base: red, bata: 1}}",
        "papers/red.yaml: methods.red_x.bata: no such key",
    ),
    (
        "papers/at_aka.yaml",
        "tables: {at_aka_x: {base: at_aka_table2, rows: [at_akka]}}",
        "papers/at_aka.yaml: tables.at_aka_x.rows: no entry 'at_akka' (nearest: at_aka)",
    ),
    (
        "papers/red.yaml",
        "scales: {demo: {recipes: {red: {epochs: 1000}}}}",
        "papers/red.yaml: scales.demo.recipes.red.epochs: 1000 is more than recipes.red has (120)",
    ),
    ("papers/soe.yaml", "colums: {}", "papers/soe.yaml: colums: no such section"),
]


@pytest.mark.parametrize("name, text, problem", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_is_refused_by_file_and_key(files, name, text, problem):
    assert refusal(files, name, text).startswith(problem)


def test_bad_text_on_a_page_is_refused_by_file_and_line(files):
    (files.parent / "papers/red.yaml").write_text("a: 1\nb: 1e-4\n")
    with pytest.raises(UserError, match=r"^papers/red\.yaml:2: 1e-4 is read differently"):
        read(files)


def test_an_editors_leftover_is_no_page(files):
    (files.parent / "papers/.#red.yaml").write_text("a: [")
    assert load_plan(files).tables


@pytest.mark.workflow
def test_snakemake_reads_the_pages_too(tmp_path):
    folder = copy_project(tmp_path / "project", published())
    (folder / "params.yaml").unlink()
    copy_files(tmp_path / "split", PAPERS)
    shutil.copytree(tmp_path / "split", folder, dirs_exist_ok=True)
    done = command(folder, "snakemake", "-n", "results/red/table3.csv")
    assert done.returncode == 0 and "train" in done.stdout, done.stdout
    page = folder / "papers/red.yaml"
    page.write_text(page.read_text().replace("rows: [red_pre", "rows: [red_prr", 1))
    done = command(folder, "snakemake", "-n", "results/red/table3.csv")
    assert "error: papers/red.yaml: tables.red_table3.rows: no entry 'red_prr" in done.stdout
