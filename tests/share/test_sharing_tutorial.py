"""The tutorial of docs/sharing.md does what it says, typed as it stands."""

import pytest
import sharing_lab as lab
import sharing_origin as home
import tutorial

pytestmark = pytest.mark.sharing


def test_the_tutorial_does_what_it_says_as_it_stands(tmp_path):
    typed = tutorial.commands()
    repository = home.copied("tutorial", lambda folder: home.shrink(folder, ["standard"]))
    said = tutorial.play(tmp_path, repository, [command for command, _ in typed])
    for (command, promised), text in zip(typed, said, strict=True):
        assert promised in text, (command, text)
    assert len(typed) > 30 and sum(bool(promised) for _, promised in typed) > 15
    page = (tmp_path / "colleague/work/plots/index.html").read_text()
    assert "table1" in page
    assert "http" not in page and "<script" not in page  # opens without the internet
    for name in ("you", "colleague"):
        assert lab.jobs(tmp_path / name) == {}
