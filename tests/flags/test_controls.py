"""The planted controls: one victim that must be flagged, one that must not."""

import pytest
import tiny


@pytest.mark.slow
def test_the_over_confident_control_is_flagged_and_adversarial_training_is_not(
    tmp_path, monkeypatch
):
    asked = tiny.table_of(["pgd_at_single", "overconfident"])
    asked["archs"]["tiny"]["width"] = 8
    demo = asked["scales"]["demo"]
    demo |= {"images": 300, "recipe": {"epochs": 8, "batch_size": 32, "validate_every": 0}}
    demo["attacks"] |= {"train_pgd10": {"steps": 4}, "margin_pgd100": {"steps": 10}}
    asked["suites"]["core"]["attacks"] = ["margin_pgd100"]
    plan = tiny.place(tmp_path, monkeypatch, asked)
    tiny.made(plan, ["pgd_at_single", "overconfident"])
    frame, details, text = tiny.tabulated(plan)
    assert frame["flags"].tolist() == ["", "C10 C13 C17"]
    assert set(details["rows"]["overconfident"]["flags"]) == {"C10", "C13", "C17"}
    assert "- overconfident: C10: " in text
    plain, hidden = frame.loc["pgd_at_single"], frame.loc["overconfident"]
    assert plain["clean"] == hidden["clean"] > 0.9
    assert hidden["pgd10"] > plain["pgd10"] + 0.1
    assert hidden["adaptive_worst"] == pytest.approx(plain["adaptive_worst"], abs=0.02)
