"""What one job of each stage asks of a cluster, from `resources:` in params.yaml."""

import os
import re
from collections.abc import Callable
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import Plan, schema, values

STAGE_KEYS = ("gpus", "cpus", "mem_mb", "minutes")
ARCH_KEYS = ("mem_mb", "times", "runs_per_gpu")
SYNTAX = re.compile(r"(gpu|gres)(?::([A-Za-z0-9_.]+))?")
# sbatch's own variables, which the executor's options would otherwise hide
SITE = {
    "slurm_account": "SBATCH_ACCOUNT",
    "slurm_partition": "SBATCH_PARTITION",
    "constraint": "SBATCH_CONSTRAINT",
}
Entries = dict[str, dict[str, int]]


def gpu_syntax(defaults: Any) -> str:
    """How the profile's default resources say that GPUs are asked for; `gpu` without a profile."""
    found = dict(defaults or {}).get("gpu_syntax", "gpu")
    return str(getattr(found, "raw", found))


class Resources:
    """Requests by stage and artifact at the plan's scale; `syntax` is the cluster's."""

    def __init__(self, plan: Plan, syntax: str = "gpu") -> None:
        match = SYNTAX.fullmatch(syntax)
        if not match:
            raise UserError(
                f"slurm/config.yaml: gpu_syntax: {syntax!r} is not one of gpu, gpu:MODEL, "
                "gres, gres:MODEL"
            )
        self.plan, self.kind, self.model = plan, match[1], match[2]
        section = plan.entries.params.get("resources")
        self.stages = _entries(section, "stages", STAGE_KEYS)
        self.archs = _entries(section, "archs", ARCH_KEYS)
        if "default" not in self.archs:
            raise UserError("params.yaml: resources.archs: needs an entry default")

    def asked(self, stage: str) -> dict[str, Any]:
        """The `resources` of a rule, as Snakemake and its SLURM executor name them."""
        return {
            "mem_mb": self._of(stage, self.memory),
            "runtime": self._of(stage, self.minutes),
            "cpus_per_task": self.stage(stage)["cpus"],
            **self._gpus(self.gpus(stage)),
            **{k: os.environ[v] for k, v in SITE.items() if os.environ.get(v)},
        }

    def stage(self, stage: str) -> dict[str, int]:
        """The requests of a stage."""
        if stage not in self.stages:
            raise UserError(f"params.yaml: resources.stages: no entry {stage}; add it")
        return self.stages[stage]

    def gpus(self, stage: str) -> int:
        """GPUs of one job: none where the scale computes on the CPU."""
        return 0 if self.plan.entries.device == "cpu" else self.stage(stage)["gpus"]

    def memory(self, stage: str, arch: str) -> int:
        """Megabytes of a first attempt."""
        return self.stage(stage)["mem_mb"] + self.arch(arch)["mem_mb"]

    def minutes(self, stage: str, arch: str) -> int:
        """Minutes of a first attempt."""
        return self.stage(stage)["minutes"] * self.arch(arch)["times"]

    def arch(self, name: str) -> dict[str, int]:
        """What an arch adds: its own entry, its nearest base's, or `default`."""
        known = values.section(self.plan.entries.params, "archs")
        while name not in self.archs and "base" in known.get(name, {}):
            name = str(known[name]["base"])
        return self.archs.get(name, self.archs["default"])

    def _of(self, stage: str, amount: Callable[[str, str], int]) -> Callable[[Any, int], int]:
        def asked(wildcards: Any, attempt: int) -> int:
            name = wildcards.run if hasattr(wildcards, "run") else wildcards.victim
            return amount(stage, name.split("-")[1]) * attempt

        return asked

    def _gpus(self, count: int) -> dict[str, Any]:
        if not count:
            return {}
        if self.kind == "gres":
            return {"gres": f"gpu:{self.model}:{count}" if self.model else f"gpu:{count}"}
        return {"gpu": count, **({"gpu_model": self.model} if self.model else {})}


def _entries(section: Any, key: str, known: tuple[str, ...]) -> Entries:
    where = f"params.yaml: resources.{key}"
    entries = section.get(key) if isinstance(section, dict) else None
    if not isinstance(entries, dict):
        raise UserError(f"{where}: must be a mapping")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != set(known):
            hint = schema.nearest(name, known)
            raise UserError(f"{where}.{name}: needs exactly {', '.join(known)}{hint}")
        for k, v in entry.items():
            least = 0 if k in ("gpus", "mem_mb") else 1
            if values.as_int(v, f"{where}.{name}.{k}") < least:
                raise UserError(f"{where}.{name}.{k}: {v} is less than {least}")
    return entries
