"""What one job of each stage asks of a cluster, from `resources:` in params.yaml."""

import math
import os
import re
from typing import Any

from pipeline.errors import UserError
from pipeline.plan import Figure, Plan, Record, Run, TransferSet
from pipeline.plan.audit import STAGE_KEYS
from pipeline.plan.estimate import seconds

SYNTAX = re.compile(r"(gpu|gres)(?::([A-Za-z0-9_.]+))?")
# sbatch's own variables, which the executor's options would otherwise hide
SITE = {
    "slurm_account": "SBATCH_ACCOUNT",
    "slurm_partition": "SBATCH_PARTITION",
    "constraint": "SBATCH_CONSTRAINT",
}


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

    def asked(self, stage: str) -> dict[str, Any]:
        """The `resources` of a rule, as Snakemake and its SLURM executor name them."""
        return {
            "mem_mb": lambda wildcards, attempt: self.stage(stage)["mem_mb"] * attempt,
            "runtime": lambda wildcards, attempt: (
                self.minutes(stage, self._artifact(wildcards)) * attempt
            ),
            "cpus_per_task": self.stage(stage)["cpus"],
            **self._gpus(self.gpus(stage)),
            **{k: os.environ[v] for k, v in SITE.items() if os.environ.get(v)},
        }

    def stage(self, stage: str) -> dict[str, int]:
        """The requests of a stage."""
        section = self.plan.entries.section("resources")
        if stage not in section:
            raise UserError(
                f"params.yaml: resources.{stage}: is missing; needs {', '.join(STAGE_KEYS)}"
            )
        return section[stage]

    def gpus(self, stage: str) -> int:
        """GPUs of one job: none where the scale computes on the CPU."""
        return 0 if self.plan.entries.device == "cpu" else self.stage(stage)["gpus"]

    def minutes(self, stage: str, artifact: Run | Record | TransferSet | Figure) -> int:
        """Minutes of a first attempt: some for the start, and `slack` times the estimate."""
        asked, estimate = self.stage(stage), seconds(self.plan, [artifact])
        return asked["minutes"] + math.ceil(asked["slack"] * (estimate or 0) / 60)

    def _artifact(self, wildcards: Any) -> Run | Record | TransferSet | Figure:
        if hasattr(wildcards, "run"):
            return self.plan.run(wildcards.run)
        if hasattr(wildcards, "figure"):
            return self.plan.figure(wildcards.figure)
        if hasattr(wildcards, "set"):
            return self.plan.set(wildcards.set)
        return self.plan.record(f"{wildcards.victim}/{wildcards.suite}")

    def _gpus(self, count: int) -> dict[str, Any]:
        if not count:
            return {}
        if self.kind == "gres":
            return {"gres": f"gpu:{self.model}:{count}" if self.model else f"gpu:{count}"}
        return {"gpu": count, **({"gpu_model": self.model} if self.model else {})}
