"""Remember what was computed: `python -m pipeline record` (`make record`), after or during a run.

Adds finished, verified artifacts to their pools and to the manifest, and stages what belongs in
git. The first recorded content of a name wins; a table or figure is staged only when it is up to
date.
"""

import argparse
import datetime
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.plan import Plan, Target, load_plan
from pipeline.plan.params.words import digest
from pipeline.plan.workflow import stages
from pipeline.raw.receipt import OFFICIAL, is_stated, list_corrected, read_receipt, summed
from pipeline.share import finished, pools
from pipeline.share.finished import Finished
from pipeline.store import manifest, sums
from pipeline.store.files import locked
from pipeline.store.manifest import MANIFEST, Line

RESULTS = Path("results")


class Recorder:
    """One pass over what lies on disk; problems are collected, so that the rest is remembered."""

    def __init__(self, plan: Plan) -> None:
        self.plan = digest(plan.entries.params)
        datasets = [plan.dataset(name) for name in plan.entries.section("datasets")]
        self.raw = {dataset.raw: dataset for dataset in datasets}
        self.listed = manifest.read()
        self.added: list[tuple[Finished, Line]] = []
        self.problems: list[str] = []
        self.refused: list[Path] = []

    def look(self, artifact: Finished) -> None:
        """Take a new artifact; compare a known one with what was recorded."""
        try:
            known = self.listed.get(artifact.path.as_posix())
            if known is not None and not self._is_corrected(artifact, known):
                self._compare(artifact, known)
            else:
                self.added.append((artifact, self._build_line(artifact)))
        except UserError as error:
            self._refuse(artifact, str(error))
        except FileNotFoundError as error:  # a job has just deleted it
            self._refuse(artifact, f"{error.filename}: went away meanwhile; record again")

    def _refuse(self, artifact: Finished, problem: str) -> None:
        self.problems.append(problem)
        self.refused.append(artifact.path)

    def _build_line(self, artifact: Finished) -> Line:
        rests_on = finished.verify(artifact)
        times = artifact.times
        return Line(
            artifact=artifact.path.as_posix(),
            sha256=artifact.sums(),
            bytes=artifact.bytes,
            rests_on=rests_on,
            plan=self.plan,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            host=str(times.get("device", "unknown")),
            versions=_list_versions(times),
            seconds=sums.as_seconds(times.get("seconds")) or 0.0,  # 0 is unknown
        )

    def _compare(self, artifact: Finished, known: Line) -> None:
        if artifact.sums() != known.sha256 and not self._is_official(artifact):
            name = known.artifact
            remedy = f"rm -r {name} && dvc pull {name}"
            if artifact.kind == "raw":  # which may be a user's own
                remedy = (
                    f"mv {name} {name}.mine && dvc pull {name}, or, if these are the files that "
                    "you mean, write their sha256 at the data set in params.yaml"
                )
            raise UserError(
                f"{name}: another content was recorded first ({known.date}), which counts; {remedy}"
            )

    def _is_corrected(self, artifact: Finished, known: Line) -> bool:
        """Whether these are other raw files than the recorded ones, and today's plan names them."""
        dataset = self.raw.get(artifact.path)
        if dataset is None or artifact.sums() == known.sha256:
            return False
        sums, found = dataset.fields["sha256"], summed(artifact.path)
        needed = list_corrected(sums, OFFICIAL.get(dataset.component)) or set(sums)
        return needed <= found <= set(sums)

    def _is_official(self, artifact: Finished) -> bool:
        """Whether these are raw files that today's plan names, known by sums that are published.

        They may lie otherwise than the recorded ones, as MNIST does in torchvision's folder: the
        receipt is another one, the data are not.
        """
        dataset = self.raw.get(artifact.path)
        if dataset is None or any("tree" in row for row in read_receipt(artifact.path)):
            return False
        official = OFFICIAL.get(dataset.component)
        return is_stated(artifact.path, dataset.fields["sha256"], official)

    def remember(self) -> None:
        """Pools first, manifest last: what it lists is certainly there."""
        if not self.added:
            return
        pools.grow([path for artifact, _ in self.added for path in artifact.members])
        lines = self.listed | {line.artifact: line for _, line in self.added}
        pools.write_manifest(lines.values())


def _list_versions(times: Mapping[str, Any]) -> dict[str, str]:
    """Of torch and Python, and a digest of the shared code that made it."""
    found = {k: str(times[k]) for k in ("torch", "python") if k in times}
    return found | ({"shared": digest(times["shared"])} if times.get("shared") else {})


def check_pools(listed: manifest.Manifest) -> None:
    """Raise UserError when a pool forgot what the manifest lists (`dvc repro -P` does that)."""
    trees = pools.Trees()
    for pool in sorted({pools.pool_of(Path(name)) for name in listed}):
        file = pools.pool_file(pool)
        known = trees.load(pool, pools.listed_in(file))
        # An artifact is a file of the pool, a folder of it, or a file one folder below.
        heads = {key[:depth] for key in known for depth in (1, 2)}

        for name in listed:
            path = Path(name)
            if path.is_relative_to(pool) and path.relative_to(pool).parts not in heads:
                raise UserError(
                    f"{file}: lacks {name}, which {MANIFEST} lists; git checkout {file} (a bare "
                    "`dvc commit` or `dvc repro -P` forgets what is not pulled)"
                )


def doubtful(plan: Plan, refused: Collection[Path]) -> dict[str, str]:
    """Targets that rest on artifacts that were refused, each with one of these."""
    doubts = {}
    for target in plan.targets.values():
        records, runs = plan.needs(target)
        sets = [plan.set(id).path for record in records for id in record.sets]
        folders = {f for run in runs for f in (run.folder, run.dataset.folder)}

        below = {*(r.path for r in records), *sets, *folders} & set(refused)
        if below:
            doubts[target.name] = str(min(below))
    return doubts


def stage_targets(plan: Plan, doubts: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """Files of tables and figures that are up to date, and a line for each that is not staged."""
    files: list[Path] = []
    left = []
    for target in plan.targets.values():
        path = target.path
        if not path.exists():
            continue

        if not target.is_here():
            left.append(
                f"{path}: is not up to date with params.yaml, so not staged; run snakemake {path}"
            )
        elif target.name in doubts:
            why = doubts[target.name]
            left.append(
                f"{path}: rests on {why}, which was refused, so not staged; put that right first"
            )
        else:
            files += [*target.outputs, *target.folders]  # a row that is gone leaves git too
    return files, left


def lock_stages(plan: Plan, doubts: Collection[str]) -> None:
    """Tell DVC that stages are done whose targets are all up to date, whoever ran Snakemake."""

    def is_done(target: Target) -> bool:
        return target.name not in doubts and target.is_here()

    done = {name for name, made in stages(plan).items() if all(map(is_done, made))}
    # DVC names the stages of a `foreach` with an @; a user's own table may have none.
    known = pools.dvc(["stage", "list", "--name-only"]).split() if done else []
    if names := [name for name in known if name.replace("@", "_", 1) in done]:
        pools.dvc(["commit", "--force", *names])


def record(plan: Plan) -> list[str]:
    """Remember everything; returns one line for each thing that was refused."""
    recorder = Recorder(plan)
    if recorder.listed:
        check_pools(recorder.listed)

    for artifact in finished.on_disk():
        recorder.look(artifact)
    recorder.remember()
    sums.remember()

    doubts = doubtful(plan, recorder.refused)
    try:
        lock_stages(plan, doubts)
    except UserError as error:  # a `dvc repro` of the same stage runs: it writes the lock itself
        recorder.problems.append(f"{error}; record again when it has ended")

    files, left = stage_targets(plan, doubts)
    files += [*RESULTS.glob("*.dvc"), *Path("data").glob("*.dvc")]
    files += [f for f in (MANIFEST, Path("dvc.lock")) if f.exists()]
    if files:
        # forced: a person's own ignore file may name *.pdf
        pools.git(["add", "--force", "--", *map(str, files)])

    print("".join(f"{line}\n" for line in left), end="")
    count, size = len(recorder.added), sum(line.bytes for _, line in recorder.added)
    print(f"{count} new artifacts ({size / 1e6:.1f} MB), {len(recorder.listed)} known; ", end="")
    changed = pools.git(["diff", "--name-only"]).split()  # params.yaml, that tables were made from
    print(f"now `git commit{' --all' if changed else ''}`, then `dvc push`")
    return recorder.problems


def main(argv: list[str] | None) -> None:
    """Command line."""
    argparse.ArgumentParser(prog="python -m pipeline record", description=__doc__).parse_args(argv)
    with locked(RESULTS):
        problems = record(load_plan())
    if problems:
        sys.exit("\n".join(f"error: {p}" for p in problems))


if __name__ == "__main__":
    report(main)
