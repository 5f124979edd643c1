"""A row in one line: docs/load.md typed, and what it says when it cannot."""

import re

import pytest
import tiny
import torch
from projects import ROOT

from pipeline import load
from pipeline.errors import UserError
from pipeline.plan.params.words import unique
from pipeline.store.files import load_safetensors
from pipeline.tools import export, transferability
from pipeline.tools.rows import find_cells, find_record


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A table of two rows, trained and judged."""
    with pytest.MonkeyPatch.context() as patch:
        found = tiny.table_of(["pgd_at", "standard"], members=[2])
        plan = tiny.place(tmp_path_factory.mktemp("load"), patch, found)
        tiny.made(plan, ["pgd_at", "standard"])
        yield plan


def test_the_page_is_typed_and_prints_the_tables_own_clean_accuracy(plan, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/load.md").read_text(), re.S)
    namespace = {}
    exec("\n".join(blocks), namespace)
    frame, _, _ = tiny.tabulated(plan)
    clean, robust = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert clean == pytest.approx(100 * frame.loc["pgd_at", "clean"], abs=0.05)
    assert robust < clean

    images, model = namespace["images"], namespace["model"]
    assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
    assert len(model.members) == 2 and not model.training


def test_what_no_row_is_called_so_is_said(plan):
    with pytest.raises(UserError, match="no row 'pgd_att'.*pgd_at"):
        load("results/table1.csv", "pgd_att")
    with pytest.raises(UserError, match="has no seed 7 .* but \\[0\\]"):
        load("results/table1.csv", "pgd_at", seed=7)


def test_a_unique_beginning_stands_for_an_id(plan):
    table = plan.table("table1")
    victim = find_cells(plan, table, "standard")[0].victim
    assert find_cells(plan, table, victim.id[:-4])[0].victim == victim
    assert unique("ab", ["abc", "b"]) == "abc" and unique("", ["a"]) is None
    with pytest.raises(UserError, match="a: 2 names begin so; write more of one: ab, ac"):
        unique("a", ["ac", "ab", "b"])
    run = plan.run(victim.elements[0].run)
    assert plan.run(run.id[:-5]) == run


def test_tools_take_a_row_where_they_took_the_id_of_a_record(plan, tmp_path, capsys):
    record = find_record(plan, "pgd_at", "fgsm", "table1")
    assert "fgsm" in dict(record.attacks)
    assert record == find_record(plan, record.id, "fgsm", "table1")
    for file in (record.path, f"./{record.path}", record.path.absolute()):
        assert record == find_record(plan, str(file), "fgsm", "table1")
    with pytest.raises(UserError, match="pgd_at: meets no attack 'fgms'.*fgsm"):
        find_record(plan, "pgd_at", "fgms", "table1")

    export.main(["pgd_at", "fgsm", str(tmp_path / "out.safetensors")])
    tensors, about = load_safetensors(tmp_path / "out.safetensors", "")
    assert about["record"] == record.id and len(tensors["images"]) == record.images
    with pytest.raises(UserError, match=r"out.pt: .*\.safetensors"):
        export.main(["pgd_at", "fgsm", str(tmp_path / "out.pt")])

    capsys.readouterr()
    transferability.main(["pgd_at", "fgsm"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "attacked,member 0,member 1"
    assert [row.split(",")[0] for row in rows] == ["member 0", "member 1"]


def test_the_callers_own_threads_and_flags_stay(plan, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load("results/table1.csv", "pgd_at")
        assert torch.get_num_threads() == 2 and not torch.backends.cudnn.deterministic
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "on, text", [("gpu", "is no device"), ("cuda:1", "is no device"), ("cuda", "no GPU")]
)
def test_a_device_that_is_none_is_refused_by_its_word(on, text, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"on: (is )?'{on}' .*{text}; write on='"):
        load("results/table1.csv", "pgd_at", on=on)
