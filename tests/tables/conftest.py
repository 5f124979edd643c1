"""Where tables are planned at the project's own scales, whatever was made in this checkout."""

from pathlib import Path

import pytest
from projects import ROOT, published

from pipeline.share import writer


@pytest.fixture
def unmade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a folder with this checkout's data and parameters, and no results."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    writer.write(tmp_path, published())
    monkeypatch.chdir(tmp_path)
