"""What a job asks for: nothing that would have to be made, once its artifact is there."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.plan import Dataset, Run, Target
from pipeline.plan.needs import SPLITS, Artifact
from pipeline.plan.state import is_current


def wanted(artifact: Artifact, inputs: Iterable[str | Path]) -> list[str]:
    """Inputs of an artifact's job; once it is made, those that happen to be there.

    An input that must be made first makes Snakemake run the job again, `ancient` or not.
    """
    is_made = all(path.exists() for path in outputs(artifact))
    return [str(f) for f in inputs if not is_made or Path(f).exists()]


def outputs(artifact: Artifact) -> list[Path]:
    """The files of an artifact's job; a table's receipt speaks for all of its own."""
    if isinstance(artifact, Run):
        names = ["weights.safetensors", "run.json"]
        names += ["best.safetensors", "history.csv"] if artifact.stage == "train" else []
        return [artifact.folder / name for name in names]
    if isinstance(artifact, Dataset):
        return [artifact.folder / f"{s}.safetensors" for s in SPLITS]
    return [artifact.path]


def paths_of(target: Target, paths: Iterable[str | Path]) -> list[str]:
    """What a target is made of; of one that is today's, what is here."""
    done = is_current(target)
    return [str(p) for p in paths if not done or Path(p).exists()]
