"""What sbatch refuses, in its own last line, and the line to change."""

import os
import re

from pipeline.cluster.site import PROFILE

RESOURCES = "`resources:` of params.yaml"
# sbatch's words -> the key of the profile, and the variable of the environment that comes first
KEYS = (
    (r"account", "slurm_account", "SBATCH_ACCOUNT"),  # also in "account/partition combination"
    (r"partition", "slurm_partition", "SBATCH_PARTITION"),
    (r"feature|constraint", "constraint", "SBATCH_CONSTRAINT"),
    (r"gres|generic resource|gpu|node configuration", "gpu_syntax", ""),
    (r"qos", "slurm-qos", "SBATCH_QOS"),
    (r"option", "slurm_extra", ""),
)
# what params.yaml asks of each stage
AMOUNTS = r"memory|time limit|cpu count|node count|violates accounting"


def explain(reason: str) -> str:
    """sbatch's last line, and where what it refuses is set: if known, a line of the profile."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    last = lines[-1].removeprefix("sbatch: error: ") if lines else "no word"
    said = reason.lower()
    if re.search(AMOUNTS, said):
        return f"sbatch refused: {last}; change {RESOURCES}"

    for words, key, variable in KEYS:
        if re.search(words, said):
            return f"sbatch refused: {last}; change {_locate(key, variable)}"
    return f"sbatch refused: {last}; see {PROFILE}, {RESOURCES} and docs/slurm.md"


def _locate(key: str, variable: str) -> str:
    """The variable where it is set, else the profile's line, set or waiting as a comment."""
    if os.environ.get(variable):
        return f"{variable}={os.environ[variable]} in the environment"
    lines = PROFILE.read_text(errors="replace").splitlines() if PROFILE.is_file() else []
    for number, line in enumerate(lines, start=1):
        if re.match(rf"\s*(# )?{key}:", line):
            return f"{PROFILE}:{number}: {line.strip()}"
    return f"{key} in {PROFILE}"
