"""Two victims on the same images, and the red flags of what is on disk or in print."""

import copy
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
from pytest import MonkeyPatch

from pipeline import evaluate
from pipeline.errors import UserError
from pipeline.flags import published
from pipeline.flags.flags import Flag, Judged
from pipeline.plan import Plan, load_plan
from pipeline.store.records import meta, pack, read_arrays
from pipeline.tools import compare, lint
from pipeline.tools.compare import Side, mcnemar


def side(name: str, *verdicts: list[float], labels: list[int] | None = None) -> Side:
    arrays = [np.array(v, np.float32) for v in verdicts]
    count = len(arrays[0])
    named = np.array(labels if labels is not None else [0] * count)
    return Side(name, [*range(len(arrays))], arrays, np.arange(count) + 100, named)


def test_a_comparison_counts_what_flips_and_for_whom() -> None:
    a = side("a", [1, 1, 1, 0, 0, 1], labels=[0, 0, 0, 1, 1, 1])
    b = side("b", [1, 0, 0, 1, 0, 1], labels=[0, 0, 0, 1, 1, 1])
    found = compare.compare(a, b)
    assert found["a"] == pytest.approx(4 / 6) and found["b"] == pytest.approx(3 / 6)
    (seed,) = found["seeds"]
    assert seed == {"seed": "0", "only_a": [101, 102], "only_b": [103], "mcnemar": 1.0}
    assert found["paired"]["difference"] == pytest.approx(1 / 6)
    assert found["paired"]["low"] < 1 / 6 < found["paired"]["high"]
    assert found["mcnemar"] == 1.0
    by_class = {label: part["difference"] for label, part in found["classes"].items()}
    assert by_class == pytest.approx({0: 2 / 3, 1: -1 / 3})


@pytest.mark.parametrize("pair", [(0, 0), (1, 0), (5, 1), (12, 30), (200, 260)])
def test_mcnemars_test_is_the_exact_binomial_one(pair: tuple[int, int]) -> None:
    tail = sum(math.comb(sum(pair), k) for k in range(min(pair) + 1)) / 2 ** sum(pair)
    assert mcnemar(*pair) == pytest.approx(min(1.0, 2 * tail))


def test_every_seed_has_its_test_and_the_least_counts_as_often_as_there_are_seeds() -> None:
    one = [1.0] * 12 + [0.0] * 8
    found = compare.compare(
        side("a", one, [1.0] * 20, one), side("b", one, [0.0] * 10 + [1.0] * 10, one)
    )
    assert [s["mcnemar"] for s in found["seeds"]] == pytest.approx([1, 2**-9, 1])
    assert found["mcnemar"] == pytest.approx(3 * 2**-9)
    assert [s["seed"] for s in found["seeds"]] == ["0", "1", "2"]
    shown = compare.text(found, "a", "b", "clean")
    assert "McNemar p = 0.00586 (Bonferroni: 3 times the least of 3 seeds)" in shown
    assert "seed 1; p = 0.00195\n  right only with a: 10 (100, 101," in shown


def test_seeds_that_agree_reject_no_more_often_than_one() -> None:
    """Their flips were pooled as if of other images: 24 % of equal victims differed at 5 %."""
    generator, seeds, rejected, pooled = np.random.default_rng(0), 3, 0, 0
    for _ in range(1000):
        a, b = (generator.random((2, 200)) < 0.5).astype(np.float32)
        sides = [
            Side(n, [*range(seeds)], [v] * seeds, np.arange(200), a)
            for n, v in zip("ab", (a, b), strict=True)
        ]
        flips = compare._compare_seeds(*sides)
        rejected += compare.bonferroni([seed["mcnemar"] for seed in flips]) <= 0.05
        ours, theirs = (sum(len(seed[key]) for seed in flips) for key in ("only_a", "only_b"))
        pooled += mcnemar(ours, theirs) <= 0.05
    assert rejected / 1000 <= 0.05
    assert pooled / 1000 > 0.15  # so this would have failed


def test_verdicts_that_are_shares_have_flips_and_no_test() -> None:
    found = compare.compare(side("a", [1, 2 / 3, 0]), side("b", [1, 1, 1 / 3]))
    (seed,) = found["seeds"]
    assert seed["only_b"] == [101, 102] and seed["mcnemar"] is None and found["mcnemar"] is None
    shown = compare.text(found, "a", "b", "clean")
    assert "no McNemar test" in shown and "more right with b: 2 (101, 102)" in shown


def test_a_victim_does_not_differ_from_itself() -> None:
    a = side("a", [1, 0, 1], [1, 1, 0])
    found = compare.compare(a, side("b", [1, 0, 1], [1, 1, 0]))
    paired = found["paired"]
    assert (paired["difference"], paired["low"], paired["high"]) == (0, None, None)
    assert found["mcnemar"] == 1 and len(found["seeds"]) == 2
    assert "the methods (two seeds: no interval) +0.0\n" in compare.text(found, "a", "b", "clean")


def test_a_comparison_says_whom_it_speaks_of() -> None:
    right, wrong = [1.0] * 30, [1.0] * 20 + [0.0] * 10
    one = compare.compare(side("a", right), side("b", wrong))
    assert "difference of these nets (one seed" in compare.text(one, "a", "b", "clean")
    three = compare.compare(side("a", *[right] * 3), side("b", *[wrong] * 3))
    assert "difference of the methods (seeds and" in compare.text(three, "a", "b", "clean")


def test_other_images_are_not_compared() -> None:
    a = side("a", [1, 0], labels=[3, 7])
    same = side("b", [1, 0], labels=[3, 7])
    others = [side("b", [1, 0, 0]), side("b", [1, 0], labels=[7, 3])]  # of another set: ids alike
    for b in [*others, replace(same, images=frozenset([("test", "other files")]))]:
        with pytest.raises(UserError, match="a and b were evaluated on other images"):
            compare.compare(a, b)
    assert compare.compare(a, same)["n"] == 2


def test_other_numbers_of_seeds_are_not_compared() -> None:
    with pytest.raises(UserError, match="a has 2 and b has 1 seeds: compare two victims by") as e:
        compare.compare(side("a", [1, 0], [1, 1]), side("b", [1, 0]))
    tiny.line(e)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with two rows of a table, and a victim of another."""
    asked = tiny.params(epochs=8)
    asked["suites"]["core"] = {"attacks": ["fgsm", "margin_pgd100"], "stop_when_fooled": True}
    asked["suites"]["adaptive"] = {"attacks": ["normalised_margin_pgd"]}
    asked["suites"]["adaptive_more"] = {"attacks": ["mim50"]}
    steps = {"margin_pgd100": 3, "pgd10": 5, "normalised_margin_pgd": 3, "mim50": 3}
    cuts = {name: {"steps": count} for name, count in steps.items()}
    asked["scales"]["demo"]["attacks"] |= cuts
    table = asked["tables"]["table1"]
    table |= {"rows": ["standard", "pgd_at_single"], "members": [2], "means": {"avg": MEAN}}
    table["suites"] = ["core", "unified", "adaptive", "adaptive_more"]
    table["columns"] = COLUMNS
    other = {"rows": ["trades_single"], "suites": ["unified"], "columns": ["clean"], "means": {}}
    asked["tables"]["other"] = copy.deepcopy({**table, **other})
    folder = tmp_path_factory.mktemp("compare")
    with MonkeyPatch.context() as patch:
        plan = tiny.place(folder, patch, asked)
        for row in table["rows"]:
            tiny.trained(plan, row, 2)
        for record in plan.needs(plan.table("table1"))[0]:
            evaluate.evaluate(plan, record, tiny.CPU)
    return folder


MEAN = ["fgsm", "pgd10", "core_worst"]
COLUMNS = ["clean", "pgd10", "avg", "unified", "core", "core_worst", "adaptive"]
COLUMNS += ["adaptive_worst", "adaptive_more_worst", "pgd10_vote", "pgd10_oracle", "clean_alone"]
COLUMNS += ["pgd10_all", "core_worst_k10", "fgsm_l2_0p5"]


@pytest.fixture
def here(built, tmp_path, monkeypatch) -> Plan:
    shutil.copytree(built, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return load_plan()


def test_the_command_compares_rows_of_a_table(here, capsys) -> None:
    compare.main(["standard", "pgd_at_single", "--attack", "pgd10"])
    out = capsys.readouterr().out
    assert out.startswith("pgd10: standard ") and "McNemar p = " in out
    assert "30 images, 1 seed)" in out and "class 9 (n " in out
    compare.main(["standard", "pgd_at_single", "--json"])
    assert '"only_a"' in capsys.readouterr().out
    victims = {c.row: c.victim.id for c in here.table("table1").cells}
    compare.main([victims["standard"], "pgd_at_single", "--attack", "clean"])
    assert capsys.readouterr().out.startswith("clean: ")


def test_a_comparison_says_what_the_table_says_of_every_accuracy(here, capsys) -> None:
    _, details, _ = tiny.tabulated(here)
    rows = ("standard", "pgd_at_single")
    assert len({details["rows"]["pgd_at_single"][c]["mean"] for c in COLUMNS}) > 4
    for column in COLUMNS:
        compare.main([*rows, "--attack", column, "--json"])
        found = json.loads(capsys.readouterr().out)
        means = [details["rows"][row][column]["mean"] for row in rows]
        assert [found[row] for row in rows] == means, column


def rewrite(plan: Plan, suite: str, name: str) -> None:
    """Have an attack of a suite fool pgd_at_single everywhere."""
    cell = next(c for c in plan.table("table1").cells if c.row == "pgd_at_single")
    path = cell.records[suite].path
    tiny.replace(path, pack({**read_arrays(path), name: np.zeros(30, np.float32)}))


def test_an_attack_is_read_where_every_image_met_it(here, capsys) -> None:
    cell = next(c for c in here.table("table1").cells if c.row == "pgd_at_single")
    for attack, _ in cell.records["core"].attacks:  # whose images leave
        rewrite(here, "core", f"{attack}/right")
    compare.main(["standard", "pgd_at_single", "--attack", "fgsm", "--json"])
    assert json.loads(capsys.readouterr().out)["pgd_at_single"] > 0
    compare.main(["standard", "pgd_at_single", "--attack", "core", "--json"])
    assert json.loads(capsys.readouterr().out)["pgd_at_single"] == 0


def test_a_worst_case_is_the_tables_join_of_suites(here, capsys) -> None:
    """`adaptive_worst` was that of one suite, without the core and the other adaptive ones."""
    rewrite(here, "adaptive_more", "mim50/right")
    compare.main(["standard", "pgd_at_single", "--attack", "adaptive_worst", "--json"])
    assert json.loads(capsys.readouterr().out)["pgd_at_single"] == 0


def test_a_victim_of_another_table_is_judged_by_this_tables_suites(here, capsys) -> None:
    tiny.trained(here, "trades_single", 2)
    (cell,) = here.table("other").cells
    arguments = [cell.victim.id, "standard", "--attack", "pgd10"]
    with pytest.raises(UserError, match="is missing; snakemake makes it"):
        compare.main(arguments)
    evaluate.evaluate(here, cell.records["unified"], tiny.CPU)
    compare.main(arguments)
    assert f"\npgd10: {cell.victim.id} " in capsys.readouterr().out
    with pytest.raises(UserError, match="core-.*is missing"):
        compare.main([cell.victim.id, "standard", "--attack", "core_worst"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["standrd", "standard"], "no row 'standrd' .nearest: standard"),
        (
            ["standard", "pgd_at_single", "--attack", "fgsm_2"],
            "no accuracy 'fgsm_2' .nearest: fgsm",
        ),
        (["standard", "pgd_at_single", "--attack", "margin_pgd100"], "no accuracy 'margin_pgd100'"),
        (["standard", "pgd_at_single", "--attack", "fgsm_l2"], "no accuracy 'fgsm_l2'"),
        (["standard", "pgd_at_single", "--attack", "parameters"], "no accuracy 'parameters'"),
    ],
)
def test_what_cannot_be_compared_is_named(here, arguments, message) -> None:
    with pytest.raises(UserError, match=message) as raised:
        compare.main(arguments)
    tiny.line(raised)


# ---- lint


def test_lint_passes_what_is_sound_and_names_what_is_not(here, capsys, monkeypatch) -> None:
    monkeypatch.setattr(published, "FOLDER", tiny.ROOT / "data" / "reported")
    monkeypatch.setattr(lint.published, "lint", lambda: iter(["a note"]))
    lint.main(["results/table1.csv"])
    assert "FAIL" not in capsys.readouterr().out
    (record,) = [
        r for r in here.needs(here.table("table1"))[0]
        if r.suite == "unified" and r.victim.entry == "standard"
    ]  # fmt: skip
    arrays = read_arrays(record.path)
    broken = {**arrays, "fgsm/right": np.ones(30, np.float32)}
    tiny.replace(record.path, pack(broken))
    with pytest.raises(SystemExit) as stop:
        lint.main([])
    out = capsys.readouterr().out
    assert stop.value.code == 1
    assert f"FAIL {record.victim.id}, 30 test images: C9: fgsm is right where" in out
    assert "note a note" in out
    tiny.replace(record.path, pack({**arrays, "fgsm/linf": np.full(30, 0.5, np.float32)}))
    with pytest.raises(SystemExit):
        lint.main([])
    assert "C1: " in capsys.readouterr().out


def test_records_say_what_the_checks_need(here) -> None:
    for record in here.needs(here.table("table1"))[0]:
        arrays = read_arrays(record.path)
        about = meta(arrays)
        outputs = "logits" if record.victim.members == 1 else "log_probs"
        assert about["flips"] == 0 and about["outputs"] == outputs and about["untouched"]
        for name, _ in record.attacks:
            for key in ("right", "margin", "loss", "linf", "l2", "l1", "unchanged", "asked"):
                assert len(arrays[f"{name}/{key}"]) == 30
            assert arrays[f"{name}/work"].sum() > 0
        assert Flag("C1", "").fails and not Flag("C13", "").fails


# ---- published numbers


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return list(published.lint(tiny.ROOT / "data" / "reported"))


@pytest.mark.parametrize(
    ("paper", "row", "flag", "count"),
    [
        ("aute table 1", "AUTE (cifar10 resnet20 x", "C8: aa", 2),
        ("at_aka table 3", "(P)AT-AKA with PGD", "C3: pgd 60.18 above fgsm 58.43", 1),
        ("red table 1", "RED (cifar10", "C9: cw_l2 88.13 above clean 87.81", 1),
        ("red table 1", "RED (cifar10", "C8: aa 65.32 above pgd 51.07", 1),
        ("red table 1", "RED (cifar10", "C8: aa 65.32 above fgsm 63.31", 1),
        ("red table 1", "RED (tiny_imagenet", "C8: aa 42.28 above fgsm 41.11", 1),
        ("red table 1", "PS-RED (cifar10", "C8: aa", 1),
        ("red table 1", "DVERGE (cifar10", "C8: aa 50.97 above pgd 34.06", 1),
        ("red table 1", "GAL (cifar10", "C8: aa 6.29 above pgd 5.47", 1),
        ("red table 1", "", "C11: deepfool", 12),
        ("soe table 3", "GAL", "C9: 30 variants leave 64.1, 3 of them 48.7", 1),
        ("soe table 3", "GAL", "C9: 30 variants leave 56, 3 of them 49.9", 1),
        ("soe table", "GAL", "C6:", 5),
        ("soe table", "DVERGE", "C", 0),
        ("meat", "", "C", 0),
    ],
)
def test_published_tables_raise_the_flags_that_reading_them_raised(
    notes, paper, row, flag, count
) -> None:
    found = [n for n in notes if n.startswith(paper) and f", {row}" in n and f": {flag}" in n]
    assert len(found) == count


def test_most_of_autes_autoattack_is_within_a_rounding_of_pgd(notes) -> None:
    near = [n for n in notes if n.startswith("aute table 1") and "C10" in n]
    assert len(near) >= 15  # of 24 rows
    assert not any("AUTE" in n for n in near)


def test_numbers_that_agree_with_each_other_raise_nothing(tmp_path) -> None:
    header = "table,row,column,value,entry,dataset,arch,members,eps,attack,checkpoint\n"
    rows = [("clean", 80), ("fgsm", 60), ("pgd100", 55), ("autoattack", 50)]
    lines = "".join(f"1,A,x,{v},a,cifar10,net,3,8/255,{attack},last\n" for attack, v in rows)
    (tmp_path / "one.csv").write_text(header + lines)
    assert list(published.lint(tmp_path)) == []
    (tmp_path / "one.csv").write_text(header + lines.replace(",50,", ",56,"))
    assert len(list(published.lint(tmp_path))) == 1
    (tmp_path / "one.csv").unlink()
    with pytest.raises(UserError, match="holds no published"):
        list(published.lint(tmp_path))


def test_rows_of_the_best_and_the_last_checkpoint_are_judged_apart(tmp_path) -> None:
    """One name in print, told apart by the column `entry` alone."""
    header = "table,row,column,value,entry,dataset,arch,members,eps,attack,checkpoint\n"
    best, last = ("a_best", 50, 60), ("a_last", 40, 45)  # AutoAttack and PGD of each
    rows = [(entry, "autoattack", aa) for entry, aa, _ in (best, last)]
    rows += [(entry, "pgd100", pgd) for entry, _, pgd in (last, best)]
    lines = [f"1,A,x,{v},{entry},cifar10,net,1,8/255,{attack},\n" for entry, attack, v in rows]
    (tmp_path / "one.csv").write_text(header + "".join(lines))
    assert list(published.lint(tmp_path)) == []


def test_lint_without_records_says_so_and_not_all_clear(tmp_path, monkeypatch, capsys):
    tiny.place(tmp_path, monkeypatch, tiny.table_of(["pgd_at", "standard"]))
    (tmp_path / "data/reported").symlink_to(tiny.ROOT / "data/reported")
    for asked in (["results/table1.csv"], []):
        lint.main(asked)
        first, *_ = capsys.readouterr().out.splitlines()
        assert re.match(r"warn (\d+) of \1 records of \S+.* are not here: nothing is said", first)


def test_lint_says_what_of_another_scale_it_does_not_look_at(here, capsys, monkeypatch) -> None:
    monkeypatch.setattr(lint.published, "lint", lambda: iter([]))
    record = next(r for r in here.graph.records.values() if r.path.exists())
    other = record.path.with_name("core-0123456789.npz")
    shutil.copyfile(record.path, other)
    try:
        lint.main([])
        assert "warn 1 other records in results/records are of another scale" in (
            capsys.readouterr().out
        )
        lint.main(["results/table1.csv"])
        assert "other records" not in capsys.readouterr().out
    finally:
        other.unlink()


def test_a_worst_case_that_is_not_trusted_is_compared_with_nothing() -> None:
    one, other = side("sound", [1, 1, 0]), side("masked", [1, 1, 1])
    masked = replace(other, untrusted=("C13", "C22"))
    found = compare.compare(one, masked)
    assert found["not_trusted"] == {"masked": ("C13", "C22")} and "paired" not in found
    assert compare.text(found, "sound", "masked", "adaptive_worst") == (
        "adaptive_worst: sound 66.7, masked 100.0\n"
        "not trusted, so compared with nothing: masked (C13 C22); docs/flags.md says what these "
        "mean\n"
    )
    assert compare.compare(one, other)["not_trusted"] == {}


def test_the_flags_of_a_victims_records_decide_whether_it_is_compared(here, monkeypatch) -> None:
    asked = []

    def judge(records, read):
        asked.append([record.suite for record in records])
        return Judged(evidence=(), flags=(), doubts={"C13"})

    monkeypatch.setattr(compare, "judge", judge)
    table = here.table("table1")
    assert compare.side(here, table, "standard", "clean").untrusted == () and not asked
    assert compare.side(here, table, "standard", "core_worst").untrusted == ("C13",) and asked
