"""Tables as people print them: names, LaTeX, and pictures where what is not ranked is seen."""

import re
from pathlib import Path

import pytest
import tiny

from pipeline.tables import canvas, dots, latex
from pipeline.tables.labels import read

READ = {
    "pgd_at": "PGD-AT",
    "pgd_at_single": "PGD-AT (single)",
    "aute": "AUTE",
    "aute_released": "AUTE (released)",
    "soe_100": "SoE (100)",
    "red x5 train_eps=8/255": "RED x5 train_eps=8/255",
    "meat_mart": "MEAT (MART)",
    "clean": "clean",
    "pgd100": "PGD-100",
    "apgd_ce": "APGD-CE",
    "margin_pgd100": "margin PGD-100",
    "core_worst": "core, worst case",
    "tiny_imagenet": "Tiny-ImageNet",
    "my_defence": "my defence",
}


@pytest.mark.parametrize("name", READ)
def test_names_are_those_that_people_read(name):
    assert read(name) == READ[name]


def test_no_two_lines_of_a_picture_look_alike_without_colour():
    several = [look for look, _ in zip(canvas.looks(), range(35), strict=False)]
    for key in ("color", "linestyle", "marker"):
        assert len({str(look[key]) for look in several[:5]}) == 5
    assert len({(str(s["linestyle"]), s["marker"]) for s in several}) == 35


def test_a_margin_below_0_is_on_the_picture(monkeypatch):
    sheets = []
    monkeypatch.setattr(dots, "drawn", lambda size, title, paint: sheets.append(paint))
    cell = {"mean": -0.08, "low": -0.1, "high": -0.06}
    dots.draw({"aute": {"status": "done", "pgd10_gap": cell}}, "title")
    figure = dots.Figure()
    sheets[0](figure)
    assert figure.axes[0].get_xlim() == (-12, 102)


def test_what_is_not_ranked_is_hollow_and_flags_stand_behind_names(monkeypatch):
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6}
    honest = {"status": "done", "clean": cell, "core_worst": cell, "flags": {}, "not_trusted": ""}
    planted = {**honest, "flags": {"C10": "", "C22": ""}, "not_ranked": ["core_worst"]}
    sheets = []
    monkeypatch.setattr(dots, "drawn", lambda size, title, paint: sheets.append(paint))
    dots.draw({"aute": honest, "overconfident": planted}, "title")
    figure = dots.Figure()
    sheets[0](figure)
    (axes,) = figure.axes
    insides = {}
    for bars in axes.containers:
        points = bars.lines[0]
        insides[points.get_marker(), *map(round, points.get_ydata())] = points.get_mfc()
    assert insides["s", 1] == "white" and insides["s", 0] != "white"  # of core_worst alone
    assert insides["o", 0, 1] != "white"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["AUTE", "overconfident\n[C10 C22]"]
    assert [t.get_text() for t in axes.get_legend().texts] == ["clean", "core, worst case"]


def test_numbers_are_set_as_a_paper_prints_them():
    line = r"PGD-10 & -6.7 [-8.9, 4.4] & [-1.0 [-2.0, 0.5]] & 2.33e+05 & 1e-05 & C10 \\"
    assert latex.typeset(line) == (
        r"PGD-10 & $-$6.7 [$-$8.9, 4.4] & [$-$1.0 [$-$2.0, 0.5]] & "
        r"$2.33\cdot10^{5}$ & $1\cdot10^{-5}$ & C10 \\"
    )


def test_a_title_with_signs_of_latex_is_set_as_it_is_written():
    assert latex._escaped(r"l^2 {a} \b ~c $d & e_f 5 % #1") == (
        r"l\textasciicircum{}2 \{a\} \textbackslash{}b \textasciitilde{}c \$d \& e\_f 5 \% \#1"
    )


def test_a_table_is_there_as_latex_for_a_paper(tmp_path, monkeypatch):
    plan = tiny.place(tmp_path, monkeypatch, tiny.table_of(["standard", "to_come"]))
    tiny.made(plan, ["standard", "pgd_at"])
    frame, _, _ = tiny.tabulated(plan, partial=True)
    text = (Path("work/partial") / "table1.tex").read_text()
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    (head,) = re.findall(r"^method & .*$", text, re.M)
    (row,) = re.findall(r"^standard & .*$", text, re.M)
    assert "PGD-10" in head and "core, worst case" in head and "adaptive, worst case" in head
    assert head.count("&") == row.count("&") and "to come & planned" in text
    assert f"{100 * float(frame.loc['standard', 'clean']):.1f} [" in row
    assert "Digits for CIFAR-10" in text and not re.search(r"(?<!\\)[%#]\S", text)
