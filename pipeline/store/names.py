"""Names that what was recorded may have: no path is made of text that the plan cannot write."""

import re
from pathlib import PurePosixPath

WORD, ID, DIGEST = r"[a-z0-9_]+", r"[a-z0-9_-]+", r"[0-9a-f]+"
ARTIFACT = re.compile(
    rf"results/runs/{ID}|results/records/{ID}/{WORD}-{DIGEST}\.npz"
    rf"|results/transfer/{ID}\.safetensors"
    rf"|data/raw/{WORD}|data/(?!raw/|reported/|claims/){WORD}/{DIGEST}"
)
SHA256 = re.compile(r"[0-9a-f]{64}")
LISTING = re.compile(r"[0-9a-f]{32}\.dir")


def is_artifact(name: str) -> bool:
    """Whether it is the path of a run, record, transfer set, prepared or raw data set."""
    return ARTIFACT.fullmatch(name) is not None


def is_sha256(text: str) -> bool:
    """Whether it is a hex sum."""
    return SHA256.fullmatch(text) is not None


def is_file_name(name: str) -> bool:
    """Whether it names a file in a folder, and nothing elsewhere."""
    return is_inside(name) and "/" not in name


def is_inside(name: str) -> bool:
    """Whether a relative path, as written, stays below the folder that it starts in."""
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    )
