"""results/report.html in a real browser: it opens, sorts, filters, complains of nothing."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from projects import ROOT, copy_project, jobs, published, run, tiny_params

from pipeline import present
from pipeline.errors import UserError
from pipeline.pages import charts, page
from pipeline.pages.cards import (
    _list_maker,
    _read_pages,
    cards,
    collect_radii,
    meanings,
    papers_of,
)
from pipeline.plan import Plan, presented, workflow

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
ROWS = ["pgd_at", "standard", "meat", "to_come"]
TITLE = "A table <b>of</b> & more"
LINE = re.compile(  # its dashes, colour, and the outline of its marker
    r'style="fill: none; (?:stroke-dasharray: ([\d.,]+); [^"]*?)?stroke: ([^;]+); [^"]*"/>'
    r'\s*<defs>\s*<path id="\w+" d="([^"]*z\s*)"'
)
PROBE = """
<script type="module">
const rows = () => [...document.querySelectorAll('#main tbody tr')].map(r => r.dataset.row);
const choose = (name, value) => { const s = document.querySelector(`[data-filter=${name}]`);
  s.value = value; s.dispatchEvent(new Event('change')); const found = rows();
  s.value = ''; s.dispatchEvent(new Event('change')); return found; };
const wait = () => new Promise(done => setTimeout(done, 150));
const seen = {ready: document.documentElement.dataset.ready, first: rows()};
const heads = [...document.querySelectorAll('#main thead th')];
const head = heads.find(h => h.textContent.trim() === 'clean');
head.click(); await wait(); seen.up = rows();
head.click(); await wait(); seen.down = rows();
seen.family = choose('family', 'standard');
seen.paper = choose('paper', 'meat');
const search = document.querySelector('.dt-search input');
search.value = 'stand'; search.dispatchEvent(new Event('input'));
await wait(); seen.search = rows();
location.hash = 'card-pgd-at'; await wait();
seen.card = document.getElementById('card-pgd-at').open;
seen.asked = performance.getEntriesByType('resource').map(r => r.name);
seen.wide = document.documentElement.scrollWidth <= innerWidth;
document.body.dataset.seen = JSON.stringify(seen);
</script>
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a small table whose title is hostile, and the plan behind it."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        plan = tiny.place(folder, patch, tiny.table_of(ROWS, title=TITLE))
        tiny.made(plan, ROWS)
        tiny.tabulated(plan)
        shutil.copytree(ROOT / "docs", folder / "docs")
        hostile = b"| a |\n|---|\n| <script>alert(1)</script> |\n"
        presented.save_text(plan, presented.claims(plan), {presented.CLAIMS: hostile})
        present.present(plan)
        yield plan, folder / "results" / "report.html"


def browse(file, size="1280,900"):
    """What the page says of itself after the probe, and what the browser logged."""
    folder = file.parent / "browser"
    folder.mkdir(exist_ok=True)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=8000", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    log = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, log


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: .ci/browser installs it")
@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_it_opens_sorts_filters_and_asks_nobody(made, size):
    plan, file = made
    probed = file.with_name("probed.html")
    probed.write_text(file.read_text().replace("</body>", f"{PROBE}</body>"))
    dom, log = browse(probed, size)
    said = dom.partition('data-seen="')[2].partition('"')[0].replace("&quot;", '"')
    seen = json.loads(said)

    details = page.rows_of(plan.table("table1"))
    clean = {n: f["clean"]["mean"] for n, f in details.items() if f["status"] == "done"}
    assert seen["ready"] == "yes" and seen["first"] == ROWS
    ups = [clean[row] for row in seen["up"] if row in clean]
    downs = [clean[row] for row in seen["down"] if row in clean]
    assert ups == sorted(clean.values()) and downs == ups[::-1]
    assert seen["family"] == ["standard"] == seen["search"] and seen["paper"] == ["meat"]
    assert seen["card"] and seen["wide"]
    assert log == []
    assert seen["asked"] == [] and "default-src 'none'" in probed.read_text()


def test_it_holds_every_number_and_no_markup_of_others(made):
    plan, file = made
    text = file.read_text()
    assert len(text) < 8e6
    assert "A table &lt;b&gt;of&lt;/b&gt; &amp; more" in text and "<b>of</b>" not in text
    assert "&lt;script&gt;alert(1)" in text and "<script>alert" not in text
    details = page.rows_of(plan.table("table1"))
    slug = page.name_anchors()
    for name in ("pgd_at", "standard", "meat"):
        assert f'id="card-{slug(name)}"' in text
        for value in details[name].values():
            if isinstance(value, dict) and "mean" in value:
                assert page.hover(value) in text and page.shown(value) in text
    assert "to_come (planned)" in text and 'id="card-to-come"' not in text
    assert "load(&#34;results/table1.csv&#34;, &#34;pgd_at&#34;)" in text
    assert "MEAT" in text and "sha256" in text

    receipt = json.loads(file.with_suffix(".json").read_text())["receipt"]
    assert set(receipt["rests_on"]) == {"results/table1.json", "results/claims.md"}


def test_rows_that_differ_in_signs_alone_have_anchors_of_their_own():
    slug = page.name_anchors()
    assert [slug(n) for n in ("gairat lambda=1", "gairat lambda=-1", "gairat lambda=1")] == [
        "gairat-lambda-1", "gairat-lambda-1-no-2", "gairat-lambda-1"
    ]  # fmt: skip


def test_an_untrusted_dot_is_hollow():
    assert 'fill="none"' in charts.dot(0.5, 0.4, 0.6, True)
    assert 'cx="50.0"' in charts.dot(0.5, 0.4, 0.6, False)
    assert 'fill="currentColor"' in charts.dot(0.5, 0.4, 0.6, False)


def test_a_sweeps_columns_are_accuracies_by_radius():
    """Of the victim, not of the label: two recipes may have a row `standard`."""
    plan = Plan(published() | {"scale": "demo"})
    table = plan.tables["sweep"]
    cell = next(c for c in table.cells if c.row == "standard")
    numbers = {"pgd20_eps_0": {"mean": 0.9}, "pgd20_eps_8_255": {"mean": 0.5}, "clean": {"mean": 1}}
    ((victim, found),) = collect_radii(table, {"standard": numbers})
    ((attack, points),) = found.items()
    assert victim == cell.victim.id and attack == "pgd20"
    # The digits that stand in are attacked at radii 6.375 times as large
    assert np.allclose(points, [(0, 90), (8 * 6.375, 50)])

    record = cell.records["sweep"]
    theirs = {"component": "torchattacks", "fields": {"class": "PGD", "arguments": {"eps": 0.2}}}
    other = replace(record, attacks=(("pgd20_eps_8_255", theirs),))
    swept = replace(table, cells=(replace(cell, records={"sweep": other}),))
    ((_, found),) = collect_radii(swept, {"standard": numbers})
    assert np.allclose(found["pgd20"], [(51, 50)])
    assert charts.lines({"clean": []}, "epoch") == ""


def test_a_row_belongs_to_the_papers_whose_pages_show_it():
    assert "aute" in papers_of("aute_released") and "meat" in papers_of("meat")
    assert papers_of("no_such_row") == ()


def test_an_editors_leftover_is_no_page_of_a_paper(tmp_path, monkeypatch):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/aute.yaml").write_text("methods: {}")
    (tmp_path / "papers/.#aute.yaml").symlink_to("me@host.1234")
    monkeypatch.setattr("pipeline.pages.cards.ROOT", tmp_path)
    assert _read_pages.__wrapped__() == {"aute": {"methods": {}}}


@pytest.mark.workflow
def test_the_workflow_makes_it_from_the_table_and_then_has_nothing_to_do(tmp_path):
    folder = copy_project(tmp_path / "project", tiny_params())
    shutil.copytree(ROOT / "docs", folder / "docs")
    run(folder, "results/report.html")
    assert 'id="card-wa"' in (folder / "results/report.html").read_text()
    assert (folder / "results/report.json").exists() and (folder / "results/table1.csv").exists()
    assert jobs(folder, "results/report.html") == {}


def test_two_seeds_have_no_interval():
    against = {"row": "pgd_at", "difference": 0.1, "low": None, "high": None}
    value = {"mean": 0.5, "low": None, "high": None, "n": 20, "seeds": 2, "against": against}
    said = "no interval of two seeds; 20 images, 2 seeds; against pgd_at: +10.0"
    assert page.hover(value) == said
    assert 'class="bar"' not in charts.dot(0.5, None, None, hollow=False)
    value["against"] = {"row": "pgd_at", "refused": "2 and 1 seeds"}
    assert page.hover(value).endswith("against pgd_at: 2 and 1 seeds")


def test_every_series_has_a_line_told_apart_without_colour_that_a_dark_page_shows():
    names = ["fgsm", "mim50", "pgd10", "pgd100", "square", "apgd", "fab"]
    drawn = charts.lines({name: [(0.0, 90.0), (8.0, 40.0)] for name in names}, "radius")
    assert all(name in drawn for name in names)

    found = LINE.findall(drawn)
    assert len(found) == len({(dashes, marker) for dashes, _, marker in found}) == len(names)
    assert len({colour for _, colour, _ in found}) == len(names)
    assert "#000000" not in drawn


def test_a_clone_without_records_has_the_page_all_the_same(made):
    plan, _ = made
    table = plan.table("table1")
    path = next(iter(table.cells[0].records.values())).path
    aside = path.rename(path.with_suffix(".aside"))
    try:
        card = cards(plan, table, page.rows_of(table), {})[0]
    finally:
        aside.rename(path)
    assert (path.as_posix(), "not here: pull it") in card.receipts


def test_times_that_are_cut_or_older_are_no_trace(tmp_path):
    path = tmp_path / "run.time.json"
    path.write_text('{"seconds": 3, "dev')
    assert list(_list_maker(path, "trained")) == []
    path.write_text('{"seconds": 3, "device": "cpu x86_64"}')
    ((_, said),) = _list_maker(path, "trained")
    assert said == "3 s on cpu x86_64, unknown, torch unknown, Python unknown"


def test_members_trained_apart_count_with_all_their_seconds(tmp_path, monkeypatch):
    plan = tiny.place(
        tmp_path, monkeypatch, tiny.table_of(["standard"], members=[2], reference="none")
    )
    table = plan.table("table1")
    monkeypatch.setattr("pipeline.pages.cards.FLAGS_PAGE", ROOT / "docs/flags.md")
    times = [one.folder / "run.time.json" for one in tiny.runs(plan, "standard", 2)]
    for time, seconds in zip(times, (3, 4.5), strict=True):
        time.parent.mkdir(parents=True)
        time.write_text(f'{{"seconds": {seconds}}}')

    (card,) = cards(plan, table, {"standard": {"status": "done", "flags": {}}}, {})
    said = dict(card.receipts)
    assert card.whose == ", member 1 of 2, seed 0"
    assert said["trained, member 2 of 2, seed 1"].startswith("4.5 s")
    assert said["trained, all members"] == "2 trainings, 7.5 s in all"

    times[0].unlink()
    (card,) = cards(plan, table, {"standard": {"status": "done", "flags": {}}}, {})
    assert "trained, all members" not in dict(card.receipts)


def test_an_average_counts_apart_from_its_training(made):
    plan, _ = made
    table = plan.table("table1")
    card = next(c for c in cards(plan, table, page.rows_of(table), {}) if c.row == "meat")
    assert card.whose == "" and {"trained", "averaged"} <= dict(card.receipts).keys()


def test_a_checks_meaning_is_its_own_and_not_how_often_it_errs(monkeypatch):
    monkeypatch.chdir(ROOT)
    meanings.cache_clear()
    assert list(meanings()) == [f"C{number}" for number in range(1, 24)]
    assert [c for c, said in meanings().items() if re.match(r"Fires when [\d.]+ %", said)] == []


def test_a_row_that_stands_twice_is_made_again_by_its_label(made):
    plan, _ = made
    table = plan.table("table1")
    cell = table.cells[0]
    twin = replace(cell, setting=replace(cell.setting, arch="other"))
    both = replace(table, cells=(cell, twin))
    name = f"{cell.row} {cell.setting.arch}"
    (card,) = cards(plan, both, {name: page.rows_of(table)[cell.row]}, {})
    assert f"results/table1.csv --row '{name}' --seed 0 --run" in card.again


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A function from a title of `other` to the plan of table1 and it; nothing made."""

    def plan(title):
        params = tiny.table_of(["standard"], reference="none")
        params["tables"]["other"] = {"base": "table1", "title": title}
        return Plan(params)

    monkeypatch.chdir(tmp_path)
    return plan


def names(plan):
    return [target.name for target in presented.find_shown(plan)]


def test_nothing_is_trained_for_a_page_while_a_table_is_finished(two):
    plan = two("A title")
    assert names(plan) == ["table1"]
    tiny.target_of(plan.table("other"))
    assert names(plan) == ["other"]
    for record in plan.table("table1").records:  # it is only to be tabulated
        record.path.parent.mkdir(parents=True, exist_ok=True)
        record.path.touch()
    assert names(plan) == ["table1", "other"]


def test_a_table_that_the_page_shows_no_more_makes_it_anew(two):
    plan, asked = two("A title"), []
    for name in ("table1", "other"):
        tiny.target_of(plan.table(name))
    tiny.target_of(presented.page(plan))
    workflow.page_input(plan, asked.append)
    assert asked == ["params.yaml"]
    for changed in (two("Another title"), plan):
        mark = workflow.page_input(changed, asked.append)
        assert mark is None or mark.startswith("work/plans/report-")
        assert (mark is None) == (changed is plan)
    workflow.mark_targets(two("Another title"))
    assert Path(workflow.page_input(two("Another title"), asked.append)).is_file()
    presented.save_text(plan, presented.claims(plan), {presented.CLAIMS: b"claims"})
    assert workflow.page_input(plan, asked.append) is not None


def test_texts_of_another_plan_or_changed_by_hand_are_not_shown(two):
    """A page of claims of another scale stood in the report as today's."""
    plan = two("A title")
    (Path("data/claims")).mkdir(parents=True)
    presented.OURS.write_text("paper,table\nours,table1\n")
    for text in (presented.claims(plan), presented.audit(plan)):
        presented.save_text(plan, text, {f: b"said" for f in text.outputs if f.suffix != ".json"})
    assert presented.written(plan) == [presented.CLAIMS, presented.AUDIT]

    presented.AUDIT.write_text("by hand")
    assert presented.written(plan) == [presented.CLAIMS]
    record = plan.table("table1").records[0]
    record.path.parent.mkdir(parents=True)
    record.path.touch()  # made since
    assert presented.written(plan) == []


def test_a_table_whose_name_begins_as_the_unified_ones_is_shown(monkeypatch, tmp_path):
    params = tiny.table_of(["standard"], reference="none")
    params["tables"]["table1b"] = {"base": "table1", "title": "Another"}
    monkeypatch.chdir(tmp_path)
    plan = Plan(params)
    for name in ("table1", "table1b"):
        tiny.target_of(plan.table(name))
    assert names(plan) == ["table1", "table1b"]


def test_no_page_shows_a_table_that_is_not_todays(two):
    plan = two("A title")
    for older in (False, True):
        if older:
            tiny.target_of(plan.table("table1"), "0123456789")
        with pytest.raises(UserError, match="no table is finished .* run: make table1"):
            present.present(plan)
