"""Tables from records: rows and what is missing, flags, references, published numbers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from projects import published
from pytest import MonkeyPatch

from pipeline import tabulate
from pipeline.core import intervals
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.share import writer
from pipeline.store import lease
from pipeline.store.files import sha256_of
from pipeline.store.records import pack, read_arrays
from pipeline.tables.markdown import headline, markdown
from pipeline.tables.reported import Reported
from pipeline.tables.rows import Tabulation

ROWS = ["standard", "pgd_at_single", "wa", "trades", "to_come"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder in which the first three rows have their records."""
    folder = tmp_path_factory.mktemp("table")
    with MonkeyPatch.context() as patch:
        tiny.made(tiny.place(folder, patch, tiny.table_of(ROWS)), ROWS[:3])
    return folder


def entered(built: Path, folder: Path, monkeypatch: MonkeyPatch, asked: dict[str, Any]) -> Plan:
    shutil.copytree(built, folder / "copy", symlinks=True)
    monkeypatch.chdir(folder / "copy")
    return Plan(asked)


@pytest.fixture
def full(built, tmp_path, monkeypatch) -> Plan:
    """A table of which nothing is missing."""
    return entered(built, tmp_path, monkeypatch, tiny.table_of(ROWS[:3]))


@pytest.fixture
def gappy(built, tmp_path, monkeypatch) -> Plan:
    """A table of which records are missing."""
    return entered(built, tmp_path, monkeypatch, tiny.table_of(ROWS))


# ---- rows


def test_suites_of_two_splits_stand_in_one_table(tmp_path, monkeypatch):
    """Flags compare image by image, so each split is judged by itself."""
    asked = tiny.table_of(["standard"], suites=["unified", "core", "held"], reference="none")
    asked["suites"]["held"] = {"attacks": ["pgd10", "fgsm"], "split": "validation"}
    means = {"mean_worst": ["unified_worst", "core_worst"]}
    columns = ["clean", "pgd10", "core_worst", "held_worst", "mean_worst"]
    asked["tables"]["table1"] |= {"means": means, "columns": columns}
    plan = tiny.place(tmp_path, monkeypatch, asked)
    tiny.made(plan, ["standard"])
    frame, details, text = tiny.tabulated(plan)
    assert frame.loc["standard", "status"] == "done"
    found = details["rows"]["standard"]
    assert found["pgd10"]["n"] == 30 < found["held_worst"]["n"]
    assert "behind core_worst: standard" in text and "behind mean_worst" not in text

    asked["tables"]["table1"]["means"] = {"both_worst": ["core_worst", "held_worst"]}
    asked["tables"]["table1"]["columns"] = ["clean", "both_worst"]
    with pytest.raises(UserError, match="table1.means.both_worst: is of two splits"):
        Plan(asked)


def test_a_table_says_what_its_records_say(full):
    frame, details, text = tiny.tabulated(full)
    assert list(frame.index) == ROWS[:3] and set(frame["status"]) == {"done"}
    for cell in full.table("table1").cells:
        arrays = {s: read_arrays(r.path) for s, r in cell.records.items()}
        pgd = arrays["unified"]["pgd10/right"]
        fgsm = arrays["core"]["fgsm/right"]
        both = np.minimum(fgsm, arrays["adaptive"]["normalised_margin_pgd/right"])
        means = [arrays["core"]["clean/right"], pgd, fgsm, both]
        columns = ["clean", "pgd10", "core_worst", "adaptive_worst"]
        expected = [float(m.mean()) for m in means]
        assert frame.loc[cell.row, columns].tolist() == pytest.approx(expected, abs=1e-6)
        found = details["rows"][cell.row]["pgd10"]
        assert (found["low"], found["high"]) == intervals.wilson(float(pgd.mean()), 30)
        assert found["n"] == 30 and found["seeds"] == 1 and found["std"] is None
        bounds = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        assert f"{100 * found['mean']:.1f} {bounds}" in text
    flops = {c: json.loads((full.run(r).folder / "run.json").read_text()) for c, r in runs_of(full)}
    assert frame.loc["wa", "train_flops"] == flops["wa"]["flops"] + flops["pgd_at_single"]["flops"]
    assert (
        "digits standing in for cifar10 (every radius of params.yaml times 6.375, in any norm)"
        in text
    )
    assert "tiny standing in for resnet20" in text
    assert "normalised_margin_pgd steps 3; training epochs 2, " in text


def test_a_table_says_what_its_attacks_spent(full):
    _, details, text = tiny.tabulated(full)
    cell = next(c for c in full.table("table1").cells if c.row == "wa")
    arrays = {s: read_arrays(r.path) for s, r in cell.records.items()}
    core = arrays["core"]["fgsm/work"]
    both = core + arrays["adaptive"]["normalised_margin_pgd/work"]
    found = details["rows"]["wa"]
    for column, work in (("core_worst", core), ("adaptive_worst", both)):
        spent = [found[column][key] for key in ("forwards", "backwards")]
        assert spent == pytest.approx(work / 30, abs=0.01) and min(spent) > 0
    assert "backwards" not in found["clean"]
    behind = text.split("Gradient evaluations an image behind adaptive_worst: ")[1]
    assert f"wa {both[1] / 30:.0f}" in behind.split(".\n")[0].split(", ")


def runs_of(plan: Plan) -> list[tuple[str, str]]:
    cells = plan.table("table1").cells
    return [(c.row, c.victim.elements[0].run) for c in cells if c.victim]


def test_rows_are_paired_with_the_reference_of_as_many_members(full):
    _, details, text = tiny.tabulated(full)
    assert "against" not in details["rows"]["pgd_at_single"]["adaptive_worst"]
    for row in ("standard", "wa"):
        found = details["rows"][row]["adaptive_worst"]["against"]
        assert found["row"] == "pgd_at_single" and found["low"] <= found["difference"]
        means = [details["rows"][r]["adaptive_worst"]["mean"] for r in (row, "pgd_at_single")]
        assert found["difference"] == pytest.approx(means[0] - means[1], abs=1e-6)
        assert f"{100 * found['difference']:+.1f} [" in text


def test_the_adaptive_worst_case_ranks_else_the_core_one_else_the_last_accuracy():
    columns = {"clean": {"mean": 0.9}, "adaptive_worst": {"mean": 0.1}, "core_worst": {"mean": 0.2}}
    assert headline(columns) == "adaptive_worst"
    del columns["adaptive_worst"]
    assert headline(columns | {"pgd10": {"mean": 0.3}}) == "core_worst"
    del columns["core_worst"]
    assert headline(columns | {"flags": {}, "members": 3}) == "clean"
    assert headline({"flags": {}}) is None


def test_a_table_repeats_byte_for_byte_and_carries_its_receipt(full):
    table = full.table("table1")
    tiny.tabulated(full)
    paths = list(table.outputs)
    assert {path.suffix for path in paths} == {".csv", ".md", ".tex", ".json", ".png", ".pdf"}
    before = [sha256_of(p) for p in paths]
    assert table.is_here()
    tiny.tabulated(full)
    assert [sha256_of(p) for p in paths] == before
    numbers = {row: json.loads(file.read_text()) for row, file in table.metrics.items()}
    assert set(numbers["wa"]) == {"clean", "pgd10", "core_worst", "adaptive_worst"}
    assert all(0 <= v <= 100 for row in numbers.values() for v in row.values())


def test_the_numbers_of_a_row_that_is_gone_go_too(full):
    table = full.table("table1")
    tiny.tabulated(full)
    stray = table.folder / "gone.json"
    stray.write_text("{}")
    assert not table.is_here() and table.strays() == [stray]
    tiny.tabulated(full)
    assert not stray.exists() and table.is_here()


def test_every_row_of_every_table_has_a_file_of_its_own():
    for name in published()["scales"]:
        plan = Plan({**published(), "scale": name})
        for table in plan.tables.values():
            settings = [(c.row, c.members, c.setting) for c in table.cells]
            rows = {(r, m, s.dataset, s.arch, s.overrides) for r, m, s in settings}
            assert len({file.name.lower() for file in table.metrics.values()}) == len(rows), name


def test_seeds_become_mean_deviation_and_one_row(built, tmp_path, monkeypatch):
    asked = tiny.table_of(["standard"])
    asked["scales"]["demo"]["seeds"] = [0, 1]
    plan = entered(built, tmp_path, monkeypatch, asked)
    tiny.made(plan, ["standard"])
    frame, details, _ = tiny.tabulated(plan)
    assert list(frame.index) == ["standard"]
    cells = plan.table("table1").cells
    vectors = [read_arrays(c.records["unified"].path)["pgd10/right"] for c in cells]
    means, found = [float(v.mean()) for v in vectors], details["rows"]["standard"]["pgd10"]
    assert found["mean"] == pytest.approx(np.mean(means)) and found["seeds"] == 2
    assert found["std"] == pytest.approx(np.std(means, ddof=1))
    assert frame.loc["standard", "pgd10_std"] == pytest.approx(found["std"], abs=1e-6)
    assert found["low"] is None and found["high"] is None  # of two seeds, none


def test_all_that_one_check_says_of_a_row_is_kept_once(full, monkeypatch):
    texts = ["one finds more", "two finds more", "one finds more"]
    monkeypatch.setattr("pipeline.flags.flags.CHECKS", {"C4": lambda evidence: iter(texts)})
    _, details, shown = tiny.tabulated(full)
    assert details["rows"]["wa"]["flags"] == {"C4": "one finds more; two finds more"}
    assert "one finds more; two finds more" in shown


def test_a_row_of_other_seeds_has_no_difference_to_the_reference(full, monkeypatch):
    tabulation = Tabulation(full, full.table("table1"), False)
    row = next(r for r in tabulation.rows if r.label == "wa")
    row.verdicts["core_worst"].append(row.verdicts["core_worst"][0])
    found = tabulation.details()["wa"]["core_worst"]["against"]
    assert found == {"row": "pgd_at_single", "refused": "2 and 1 seeds"}


def test_a_random_row_is_not_ranked_by_attacks_that_end_where_the_mean_is_fooled(full):
    tabulation = Tabulation(full, full.table("table1"), False)
    (place,) = (i for i, row in enumerate(tabulation.rows) if row.label == "wa")
    row = tabulation.rows[place]
    drawn = replace(row.cells[0].victim, combine="random_one")
    tabulation.rows[place] = replace(row, cells=(replace(row.cells[0], victim=drawn),))

    def compare(accuracies, column, place=place):
        tabulation.accuracies = accuracies
        return tabulation._summarise(tabulation.rows[place], column)["against"]

    refused = "random: adaptive_worst ranks it"
    assert compare(["clean", "core_worst"], "core_worst")["refused"] == refused
    assert "difference" in compare(["core_worst", "adaptive_worst"], "core_worst")
    assert "difference" in compare(["clean", "core_worst"], "clean")  # no worst case
    # without a worst case the last column ranks
    attack = next(c for c in row.verdicts if c != "clean" and not c.endswith("_worst"))
    assert compare(["clean", attack], attack)["refused"] == refused
    assert "difference" in compare([attack, "clean"], attack)


def test_no_row_is_compared_with_a_random_one_by_such_attacks(full):
    tabulation = Tabulation(full, full.table("table1"), False)
    row, other = tabulation.rows[0], tabulation.rows[1]
    drawn = replace(row.cells[0].victim, combine="random_one")
    random = replace(row, cells=(replace(row.cells[0], victim=drawn),))
    tabulation.accuracies = ["clean", "core_worst"]
    assert tabulation._is_ranked_by_luck(other, random, "core_worst")
    assert not tabulation._is_ranked_by_luck(other, row, "core_worst")


def test_a_table_says_who_starts_from_the_same_weights(full):
    """wa averages the trajectory of pgd_at_single; standard has the same seed, arch and data."""
    _, _, text = tiny.tabulated(full)
    assert "From the same initial weights, seed by seed: standard, pgd_at_single, wa." in text


def test_a_matching_number_is_printed_in_brackets(full, monkeypatch):
    monkeypatch.setattr(Reported, "value", lambda self, cell, column: 0.5)
    table = full.table("table1")
    tabulation = Tabulation(full, table, False)
    details = tabulation.details()
    assert "(50.0)" in markdown(tabulation, details)
    assert set(tabulation.frame(details)["pgd10_published"]) == {0.5}


# ---- what is missing


def log(plan: Plan, row: str, text: str) -> None:
    (cell,) = [c for c in plan.table("table1").cells if c.row == row]
    (run,) = [plan.run(e.run) for e in cell.victim.elements]
    path = Path("logs") / run.stage / f"{run.id}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("text, status", [
    (None, "not built"),
    ("# python -m pipeline.train\n# copy of plan and code: none\n", "failed"),
    ("# python\ntrades: 1/2 loss 2.3\nstopped: saved after epoch 1; run again\n", "not built"),
    ("trades: 1/2 loss 2.3\n", "failed"),  # killed without a word
    ("trades: 1/2 loss 2.3\nerror: the loss is nan\n", "failed"),
    ("Traceback (most recent call last):\n", "failed"),
])  # fmt: skip
def test_missing_rows_say_what_they_are(gappy, text, status):
    if text is not None:
        log(gappy, "trades", text)
    frame, details, shown = tiny.tabulated(gappy, partial=True)
    assert frame["status"].tolist() == ["done"] * 3 + [status, "planned"]
    assert details["rows"]["trades"] == {**details["rows"]["trades"], "status": status}
    assert f"| trades | {status} |" in shown and "| to_come | planned |" in shown
    assert frame.loc["trades", "pgd10"] == "" and not gappy.table("table1").is_here()


@pytest.mark.parametrize("text", [None, "# python\n", "# python\nerror: the loss is nan\n"])
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_row_whose_job_holds_its_lease_runs_whatever_an_earlier_log_says(gappy, stage, text):
    if text is not None:
        log(gappy, "trades", text)
    (cell,) = [c for c in gappy.table("table1").cells if c.row == "trades"]
    record = cell.records["core"].id
    held = f"records/{record}" if stage == "evaluate" else f"runs/{cell.victim.elements[0].run}"
    with lease.hold(held):
        assert tiny.tabulated(gappy, partial=True)[0].loc["trades", "status"] == "running"


def test_a_partial_table_shows_every_cell_whose_suite_is_done(full):
    whole, *_ = tiny.tabulated(full)
    cell = full.table("table1").cells[0]
    cell.records["core"].path.unlink()
    frame, details, text = tiny.tabulated(full, partial=True)
    row, name = frame.loc[cell.row], cell.row
    assert row["status"] == "not built" and row["core_worst"] == ""
    assert row["pgd10"] == whole.loc[name, "pgd10"] and row["clean"] == whole.loc[name, "clean"]
    assert "core_worst" not in details["rows"][name]
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    assert f"| {100 * row['clean']:.1f} [" in line and line.endswith("|  | not built |")


def test_a_table_with_missing_records_is_refused_unless_partial(gappy):
    writer.write(Path(), gappy.entries.params)
    with pytest.raises(UserError, match="is missing; run snakemake, or add --partial"):
        tabulate.main(["results/table1.csv"])
    assert not Path("results/table1.csv").exists()
    tabulate.main(["results/table1.csv", "--partial"])
    assert not Path("results").exists() or not list(Path("results").glob("table1.*"))
    assert Path("work/partial/table1.csv").is_file()


def test_archs_that_differ_by_data_set_are_named_with_what_stands_for_them(tmp_path, monkeypatch):
    """A mapping by data set was read as a list of archs: AUTE Table 3 and RED Table 1 failed."""
    found = tiny.table_of(["pgd_at"], datasets=["cifar10", "mnist"])
    found["tables"]["table1"]["archs"] = {"cifar10": ["resnet20"], "mnist": ["resnet8"]}
    plan = tiny.place(tmp_path, monkeypatch, found)
    _, details, shown = tiny.tabulated(plan, partial=True)
    assert "tiny standing in for resnet20" in shown and "digits standing in for mnist" in shown
    assert list(details["rows"]) == ["pgd_at cifar10", "pgd_at mnist"]


def test_a_table_that_does_not_exist_is_refused(full):
    with pytest.raises(UserError, match=r"no table 'table9' \(nearest: table1\)"):
        tabulate.main(["results/table9.csv"])


# ---- records that do not belong


def altered(plan: Plan, row: str, suite: str, **changed: Any) -> Path:
    """Rewrite a record with other contents; keys of its meta are changed by name."""
    (cell,) = [c for c in plan.table("table1").cells if c.row == row]
    path = cell.records[suite].path
    arrays = read_arrays(path)
    said = {**json.loads(str(arrays["meta"])), **changed.pop("meta", {})}
    tiny.replace(path, pack({**arrays, "meta": np.array(json.dumps(said)), **changed}))
    return path


def test_a_record_of_another_plan_is_refused(full):
    path = altered(full, "wa", "core", meta={"spec": {}})
    with pytest.raises(UserError, match=f"{path}: is of another plan"):
        tiny.tabulated(full)
    tiny.replace(path, pack({"a": np.arange(3)}))
    with pytest.raises(UserError, match=f"{path}: is no whole record .lacks ids"):
        tiny.tabulated(full)


def test_records_that_saw_different_weights_are_refused(full):
    path = altered(full, "wa", "core", meta={"weights": {"run": "0" * 64}})
    with pytest.raises(UserError, match=f"{path}: saw other weights than .*delete both"):
        tiny.tabulated(full)


def test_a_record_whose_images_left_their_ball_fails_the_table(full):
    path = altered(full, "wa", "core", **{"fgsm/linf": np.full(30, 0.9, np.float32)})
    with pytest.raises(UserError, match=f"{path}: fgsm left its ball"):
        tiny.tabulated(full)


def test_the_adaptive_worst_case_contains_the_core_one(full):
    altered(full, "wa", "core", **{"fgsm/right": np.zeros(30, np.float32)})
    frame, _, _ = tiny.tabulated(full)
    assert frame.loc["wa", ["core_worst", "adaptive_worst"]].tolist() == [0, 0]
    assert frame.loc["wa", "clean"] > 0


def test_an_axis_that_is_called_as_another_column_keeps_its_value(tmp_path, monkeypatch):
    """`scale`, a field of ADP's, was overwritten by the plan's: nothing told two lines apart."""
    found = tiny.table_of(["adp"], scale=[0.5, 1], suites=["unified"], columns=["clean"])
    plan = tiny.place(tmp_path, monkeypatch, found)
    rows = Tabulation(plan, plan.table("table1"), partial=True)
    frame = rows.frame({row.label: {} for row in rows.rows})
    assert frame["axis_scale"].tolist() == [0.5, 1] and set(frame["scale"]) == {"demo"}


def test_rows_whose_reference_the_table_lacks_are_named(built, tmp_path, monkeypatch):
    """The header promised a difference to a row that no row had beside it."""
    said = {}
    for name in ("pgd_at", "trades"):
        (tmp_path / name).mkdir()
        asked = tiny.table_of(ROWS[:3], reference=name)
        _, _, said[name] = tiny.tabulated(entered(built, tmp_path / name, monkeypatch, asked))
    assert "Compared with none" not in said["pgd_at"]
    assert (
        "Compared with none, for the table has no such trades: standard, pgd_at_single, wa."
        in said["trades"]
    )
