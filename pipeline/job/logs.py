"""What the log of a job says to who waits for it: how far it is, and why it ended."""

import re
from pathlib import Path

from pipeline.job.report import DONE, STOPPED
from pipeline.plan import Artifact, Dataset, Figure, Table

ROOMS = {"evaluate": "records", "transfer": "transfer", "figure": "figures"}  # runs: all others
STEP = re.compile(r": (?P<done>\d+)/(?P<total>\d+) (?P<text>.*)$")  # job/progress.py prints it


def lease_of(artifact: Artifact) -> str:
    """The name of the lease that the job of an artifact holds."""
    id = artifact.id.rpartition("-from")[0] if artifact.stage == "trajectory" else artifact.id
    return f"{ROOMS.get(artifact.stage, 'runs')}/{id}"


def find_log(artifact: Artifact) -> Path:
    """Where the rule of an artifact writes what its job says."""
    name = artifact.id
    if isinstance(artifact, Dataset):
        name = f"{artifact.name}-{artifact.digest}"
    elif isinstance(artifact, Table | Figure):
        name = artifact.path.with_suffix("").relative_to("results").as_posix()
    return Path("logs") / artifact.stage / f"{name}.log"


def find_pack_log(id: str) -> Path:
    """What a training says while another job of its pack trains it, before its own turn comes."""
    return Path("logs/train") / f"{id}.pack"


def find_progress(artifact: Artifact) -> Path:
    """Where it stands how far the job of an artifact is."""
    beside = find_pack_log(artifact.id)
    return beside if artifact.stage == "train" and beside.exists() else find_log(artifact)


def read_lines(log: Path) -> list[str]:
    """Its lines; none of a job that never began."""
    return log.read_text(errors="replace").splitlines() if log.is_file() else []


def find_steps(log: Path) -> list[re.Match[str]]:
    """The epochs or attacks that this try of the job has ended."""
    return [match for line in read_lines(log) if (match := STEP.search(line))]


def _read_last(log: Path) -> str:
    return next((line for line in reversed(read_lines(log)) if line.strip()), "")


def find_stop(log: Path) -> str:
    """What a job says that saved and stopped, as a signal asked; nothing of others."""
    last = _read_last(log)
    return last if last.startswith(STOPPED) else ""


def find_error(log: Path) -> str:
    """The last line of a job that began and did not end well; nothing of others."""
    last = _read_last(log)
    if not last or last == DONE or last.startswith(STOPPED):
        return ""
    return last if "error" in last.lower() else f"ended without a word: {last}"
