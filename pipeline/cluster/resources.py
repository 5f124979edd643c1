"""What one job of each stage asks of a cluster, from `resources:` in params.yaml."""

import math
import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pipeline.cluster.site import Site
from pipeline.cluster.slices import key_of
from pipeline.errors import UserError
from pipeline.plan import Artifact, Plan, Run
from pipeline.plan.estimate import archs_of, seconds
from pipeline.plan.graph.audit import STAGE_KEYS
from pipeline.plan.graph.outside import MODULE
from pipeline.plan.workflow import FIND

PACK = "ROBUST_PACK"  # ids of runs, in the environment of jobs that share an allocation
# stage -> the stage whose entry of `resources:` it asks by
ASKING = {
    "train": "train",
    "trajectory": "train",
    "average": "average",
    "transfer": "transfer",
    "evaluate": "evaluate",
    "figure": "figure",
}
# sbatch's own variables, which the executor's options would otherwise hide
VARIABLES = {
    "slurm_account": "SBATCH_ACCOUNT",
    "slurm_partition": "SBATCH_PARTITION",
    "constraint": "SBATCH_CONSTRAINT",
}


def pack_environment(arguments: Iterable[str]) -> dict[str, str]:
    """What tells the runs of a pack of each other, from Snakemake's command line in their job.

    There it is called with `--target-jobs train:run=A train:run=B`, and says so nowhere else
    before the rules are read.
    """
    target = "train:run="
    runs = sorted(a.removeprefix(target) for a in arguments if a.startswith(target))
    return {PACK: " ".join(runs)} if len(runs) > 1 else {}


class Resources:
    """Requests by stage and artifact at the plan's scale and a cluster's site."""

    def __init__(self, plan: Plan, site: Site | None = None) -> None:
        self.plan, self.site = plan, site or Site()
        self.kind, self.model = self.site.gpus()
        self.kills: Counter[str] = Counter()  # for memory, by what a job is about
        self.overruns: Counter[str] = Counter()  # of its time, with nothing saved
        for stage in ASKING.values():  # what is missing is said before any rule asks
            self.stage(stage)

    def of(self, rule: str) -> dict[str, Any]:
        """The `resources` of a rule, as Snakemake and its SLURM executor name them."""
        stage = ASKING[rule]
        return {
            "mem_mb": lambda wildcards: self._find_memory(stage, key_of(wildcards)),
            "runtime": lambda wildcards: self.slice(
                stage, self._find_artifact(rule, wildcards), key_of(wildcards)
            ),
            "cpus_per_task": self.stage(stage)["cpus"],
            **self._request_gpus(stage),
            **{k: os.environ[v] for k, v in VARIABLES.items() if os.environ.get(v)},
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

    def _find_memory(self, stage: str, key: str) -> int:
        """MB of a job: once more what a stage asks for after each time that it was too little."""
        return self.stage(stage)["mem_mb"] * (1 + _count(self.kills, key))

    def minutes(self, stage: str, artifact: Artifact) -> int:
        """Minutes that a job may need: some for the start, and `slack` times the estimate.

        Runs that share a GPU are given the time to do so one after the other. A job of unknown
        length is given all that a job may ask for.
        """
        asked, estimate = self.stage(stage), seconds(self.plan, [artifact])
        if estimate is None:
            return max([asked["minutes"], *self._list_limits(stage)[:1]])
        side_by_side = 1
        if isinstance(artifact, Run) and artifact.stage == "train":
            _, side_by_side = self.group(artifact)
        return asked["minutes"] + math.ceil(asked["slack"] * estimate * side_by_side / 60)

    def slice(self, stage: str, artifact: Artifact, key: str = "") -> int:
        """Minutes that a job asks for: it comes back as often as it takes; once more that after
        each time that it ran out of them with nothing saved."""
        needed = self.minutes(stage, artifact) * (1 + _count(self.overruns, key))
        return min([needed, *self._list_limits(stage)])

    def _list_limits(self, stage: str) -> list[int]:
        """Minutes that a job may ask for at most: the stage's, then the partition's."""
        limits = self.stage(stage)["most_minutes"], self.site.limit
        return [minutes for minutes in limits if minutes is not None]

    def pack(self, wildcards: Any, settings: Any) -> str | None:
        """The group of a run that leaves a GPU room for more; None where it has its own.

        Snakemake's group settings come from the command line, after the rules are read and before
        groups are made of their jobs: here is the moment to say how large ours are.
        """
        name, count = self.group(self.plan.run(wildcards.run))
        if count == 1:
            return None
        settings.group_components = {name: count, **settings.group_components}
        return name

    def group(self, run: Run) -> tuple[str, int]:
        """A name for runs of like length, within a factor of two, and how many share a GPU."""
        count, estimate = self.runs_per_gpu(run), seconds(self.plan, [run])
        if estimate is None:  # of unknown length: like no other
            return "alone", 1
        return f"pack_{count}_{int(estimate).bit_length()}", count

    @cached_property
    def is_packed(self) -> bool:
        """Whether any arch of params.yaml leaves a GPU room for more than one."""
        archs = self.plan.entries.section("archs")
        return bool(self.gpus("train")) and any(self._find_room(arch) > 1 for arch in archs)

    def runs_per_gpu(self, run: Run) -> int:
        """How many trainings share a GPU: what the largest arch that they hold leaves room for."""
        return min(map(self._find_room, archs_of(self.plan, run))) if self.gpus("train") else 1

    def _find_room(self, arch: str) -> int:
        if arch == MODULE:  # a user's own, of which the plan knows nothing
            return 1
        return self.plan.entries.stated("archs", arch, "runs_per_gpu") or 1

    def _find_artifact(self, stage: str, wildcards: Any) -> Artifact:
        return FIND[stage](self.plan, dict(wildcards.items()))

    def _request_gpus(self, stage: str) -> dict[str, Any]:
        """As `gres` where jobs may be packed: Snakemake adds up a group's numbers."""
        count = self.gpus(stage)
        if not count:
            return {}

        if self.kind == "gres" or (stage == "train" and self.is_packed):
            return {"gres": f"gpu:{self.model}:{count}" if self.model else f"gpu:{count}"}
        return {"gpu": count, **({"gpu_model": self.model} if self.model else {})}


def _count(times: Counter[str], key: str) -> int:
    """How often something happened to a job; a group's key holds those of all its jobs."""
    return sum(n for keys, n in times.items() if key in keys.split(", "))
