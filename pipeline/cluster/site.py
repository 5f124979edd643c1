"""What a cluster is like: how it names GPUs, and how long a job of its partition may run."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

PROFILE = Path("slurm/config.yaml")
SYNTAX = re.compile(r"(gpu|gres)(?::([A-Za-z0-9_.]+))?")
LIMIT = re.compile(r"(\d+-)?\d+(:\d+){0,2}")  # or: infinite


@dataclass(frozen=True)
class Site:
    """A cluster; without a profile none in particular."""

    syntax: str = "gpu"  # gpu, gpu:MODEL, gres, gres:MODEL
    limit: int | None = None  # minutes

    def gpus(self) -> tuple[str, str | None]:
        """How GPUs are asked for, and the model; raises UserError for any other words."""
        match = SYNTAX.fullmatch(self.syntax)
        if not match:
            raise UserError(
                f"{PROFILE}: gpu_syntax: {self.syntax!r} is not one of gpu, gpu:MODEL, "
                "gres, gres:MODEL"
            )
        return match[1], match[2]


def of_profile(defaults: Any, ask: bool) -> Site:
    """The site of a profile's default resources; `ask` SLURM for its limit."""
    resources = {name: str(getattr(v, "raw", v)) for name, v in _pair(defaults).items()}
    if "gpu_syntax" not in resources:
        return Site()

    partition = os.environ.get("SBATCH_PARTITION") or resources.get("slurm_partition")
    return Site(resources["gpu_syntax"], partition_minutes(partition) if ask else None)


def _pair(defaults: Any) -> dict[str, Any]:
    """Values by name; Snakemake takes a mapping and a list of `name=value`."""
    if not defaults or hasattr(defaults, "keys"):
        return dict(defaults or {})
    found = {}
    for item in defaults if isinstance(defaults, list) else [defaults]:
        name, is_pair, value = str(item).partition("=")
        if not is_pair:
            raise UserError(
                f"{PROFILE}: default-resources: {item!r} is neither name: value nor - name=value"
            )
        found[name.strip()] = value.strip()
    return found


def here() -> Site:
    """The site that slurm/config.yaml describes."""
    try:
        profile = yaml.safe_load(PROFILE.read_text()) if PROFILE.exists() else None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{PROFILE}{line}: not valid YAML: {reason}") from None

    defaults = profile.get("default-resources") if isinstance(profile, Mapping) else None
    return of_profile(defaults, ask=True)


def partition_minutes(partition: str | None) -> int | None:
    """The time limit of a partition, or of SLURM's default one; None where there is none."""
    if shutil.which("sinfo") is None:
        return None
    command = ("sinfo", "--noheader", "--format=%P|%l")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None

    rows = [line.strip().split("|") for line in done.stdout.splitlines() if line.count("|") == 1]
    limits = [to_minutes(limit) for name, limit in rows if _is_of(partition, name)]
    # Of several partitions SLURM may choose any: the shortest limit holds in all.
    return min((limit for limit in limits if limit is not None), default=None)


def _is_of(partition: str | None, name: str) -> bool:
    """Whether a row of sinfo is of a partition; the default one is marked with *."""
    if partition is None:
        return name.endswith("*")
    return name.removesuffix("*") in partition.split(",")


def to_minutes(limit: str) -> int | None:
    """SLURM's way to write a duration, in whole minutes; None where it is without end."""
    if not LIMIT.fullmatch(limit):
        return None

    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:  # days-hours[:minutes[:seconds]]
        hours, minutes = [*parts, 0][:2]
    elif len(parts) == 1:
        hours, minutes = 0, parts[0]
    else:  # [hours:]minutes:seconds
        hours, minutes = [0, *parts][-3:-1]
    return int(days or 0) * 1440 + hours * 60 + minutes
