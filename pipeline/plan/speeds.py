"""How fast the jobs were that are finished: what estimates learn from."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.plan import Artifact, Plan
from pipeline.plan.estimate import FLOPS
from pipeline.plan.graph.targets import walk
from pipeline.store import manifest
from pipeline.store.sums import as_seconds, beside, read_mapping

MEASURED = ("train", "average", "transfer", "evaluate")  # whose jobs tell their seconds
# stages that compute as another does, where they have no finished job of their own
LIKE = {"trajectory": "train", "figure": "evaluate", "transfer": "evaluate"}


@dataclass(frozen=True)
class Speeds:
    """GFLOP/s by stage: as a scale states them, or as the finished jobs of one device had them."""

    stated: float
    measured: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    jobs: int = 0

    def of(self, stage: str) -> float:
        """GFLOP/s that jobs of a stage are taken to sustain."""
        known = self.measured.get(stage, self.measured.get(LIKE.get(stage, "")))
        return self.stated if known is None else known

    def describe(self) -> str:
        """In words, for an estimate."""
        if not self.jobs:
            return f"at {self.stated:g} GFLOP/s"
        by_stage = ", ".join(f"{stage} {speed:.3g}" for stage, speed in self.measured.items())
        jobs = f"{self.jobs} finished job{'s' * (self.jobs > 1)} on {self.device}"
        return f"at the GFLOP/s of {jobs} ({by_stage})"


def measure(plan: Plan, targets: Iterable[Artifact]) -> Speeds:
    """Speeds of what targets rest on, by the device that most of it was made on.

    A job's seconds are those beside what it made, or in the manifest where only others have it.
    """
    work: dict[str, Counter[str]] = defaultdict(Counter)
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    jobs: Counter[str] = Counter()
    for artifact, device, seconds in _finished(plan, targets):
        flops = FLOPS[artifact.stage](plan, artifact)
        if flops:
            work[device][artifact.stage] += flops
            times[device][artifact.stage] += seconds
            jobs[device] += 1

    if not jobs:
        return Speeds(plan.entries.gflops)
    device, count = max(jobs.items(), key=lambda item: (item[1], item[0]))
    speeds = {stage: work[device][stage] / times[device][stage] / 1e9 for stage in work[device]}
    return Speeds(plan.entries.gflops, speeds, device, count)


def _finished(plan: Plan, targets: Iterable[Artifact]) -> Iterator[tuple[Artifact, str, float]]:
    """What is made by a job that computes, with the device and the seconds that it took."""
    listed = manifest.read()
    for artifact in walk(plan.graph, targets):
        if artifact.stage not in MEASURED:
            continue

        told = read_mapping(beside(artifact.outputs[0]))
        device, seconds = told.get("device"), as_seconds(told.get("seconds"))
        line = listed.get(artifact.path.as_posix())
        if line and device is None:
            device, seconds = line.host, line.seconds
        if isinstance(device, str) and seconds:  # 0 is unknown
            yield artifact, device, seconds
