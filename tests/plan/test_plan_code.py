"""The hash of a component's code: what runs counts, how it is written does not."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pipeline.plan.params.code import code_hash
from pipeline.plan.params.words import digest

SOURCE = '''
"""A data set file as a component may be."""
import gzip
from pipeline.core.losses import cross_entropy as ce
LEVELS, SHIFT = 16, 0.5
MIRRORS = ["https://example.org"]

def _read(path: str) -> bytes:
    """Read."""
    return gzip.decompress(path) * LEVELS

def unused(x):
    return x

@dataclass(frozen=True, kw_only=True)
class Thing(Base):
    """Doc."""

    steps: int  # how many
    eps: Radius

    def load(self, raw: Path) -> int:
        """Load."""
        size: int = 3
        text = f"{size:>{self.steps}} {'a'!r}"
        return ce(_read(raw)) + size + len(text)

def sources():
    return MIRRORS
'''


def hash_of(text):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "thing.py"
        path.write_text(text)
        return code_hash(path, "Thing")


def hashed(*replacements):
    text = SOURCE
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return hash_of(text)


@pytest.mark.parametrize(
    "old, new",
    [
        ("  # how many", ""),
        ('    """Doc."""\n', ""),
        ('        """Load."""\n', "        # why\n\n"),
        ('    """Read."""\n', "    'Reads.'\n    ...\n"),
        ("(self, raw: Path) -> int:", "(self, raw: 'Path') -> 'int | None':"),
        ("size: int = 3", "size = 3"),
        ("size: int = 3", "size: int\n        size = 3"),
        ("size + len", "(size) + len"),
        (
            "return ce(_read(raw)) + size + len(text)",
            "return (\n ce(_read(raw,),)\n + size + len(text))",
        ),
        ("import gzip\n", "import gzip\nimport os\n"),
        (
            "from pipeline.core.losses import cross_entropy as ce",
            "from pipeline.core.other import cross_entropy as ce",
        ),
        ("https://example.org", "https://mirror.example.org"),
        ("return MIRRORS", "return MIRRORS[::-1]"),
        ("def unused(x):\n    return x\n", ""),
    ],
)
def test_what_does_not_run_is_not_hashed(old, new):
    assert hashed((old, new)) == hashed()


def test_the_order_of_definitions_is_not_hashed():
    helper = SOURCE[SOURCE.index("def _read") : SOURCE.index("def unused")]
    assert hash_of(SOURCE.replace(helper, "") + helper) == hashed()


@pytest.mark.parametrize(
    "old, new",
    [
        ("size: int = 3", "size: int = 4"),
        ("size: int = 3", "size: int = 3.0"),
        ("+ size", "- size"),
        ("return gzip.decompress(path) * LEVELS", "return gzip.decompress(path)"),
        ("LEVELS, SHIFT = 16, 0.5", "LEVELS, SHIFT = 17, 0.5"),
        ("LEVELS, SHIFT = 16, 0.5", "LEVELS = 16\nLEVELS *= 2"),
        ("LEVELS, SHIFT = 16, 0.5", "LEVELS = 16\nif SHIFT:\n    LEVELS = 15"),
        ("cross_entropy as ce", "margin as ce"),
        ("class Thing(Base)", "class Thing(Other)"),
        ("frozen=True, ", ""),
        ("    eps: Radius\n", ""),
        ("    eps: Radius\n", "    eps: Radius\n    more: int\n"),
        ("{size:>", "{size:<"),
        ("'a'!r", "'a'!s"),
    ],
)
def test_what_runs_is_hashed(old, new):
    assert hashed((old, new)) != hashed()


def test_a_constant_that_only_the_helper_uses_is_hashed():
    changed = ("return gzip.decompress(path) * LEVELS", "return unused(path)")
    assert hashed(changed) != hashed(changed, ("    return x\n", "    return -x\n"))


def test_the_golden_digest_of_an_unchanging_source():
    assert hashed() == "4f916446a673b372"
    assert digest({"b": [1, 2.5, None], "a": {"ü": "8/255", "x": True}}) == "299e5cffe8"
