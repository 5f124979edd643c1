"""How far a workflow is: one line after each job, in place of Snakemake's counts of jobs.

Work is the estimate of the plan in seconds, by stage as much more or less as this workflow's own
finished jobs took. Time left is that work at the pace so far, whatever cores or nodes that is.
"""

import logging
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline.job.logs import find_error, find_progress, find_steps, find_stop
from pipeline.plan import Artifact, Plan, Table
from pipeline.plan.estimate import PROCESS, describe
from pipeline.plan.graph.targets import Target
from pipeline.plan.speeds import measure
from pipeline.plan.state import HAVE, NEED, State, states
from pipeline.plan.workflow import artifact_of
from pipeline.store.sums import as_seconds, beside, read_mapping

DIGEST = re.compile(r"-[0-9a-f]{10}(?=[/-]|$)")
CHATTER = re.compile("Select jobs to execute")
SHOWN = 2  # finished jobs in one line; a group has many


class Job(Protocol):
    """What Snakemake shows of a job."""

    jobid: int
    rule: Any
    wildcards_dict: Mapping[str, str]
    log: Iterable[str]


class Headway:
    """What the jobs of one workflow have done, and what of all that their targets rest on is left.

    `clock` is in seconds, as the file system tells time.
    """

    def __init__(
        self, plan: Plan, jobs: Iterable[Job], clock: Callable[[], float] = time.time
    ) -> None:
        self.clock, self.since = clock, clock()
        self.jobs = {job.jobid: job for job in jobs}
        found = {i: artifact_of(plan, str(j.rule), j.wildcards_dict) for i, j in self.jobs.items()}
        self.made: dict[int, Artifact] = {i: a for i, a in found.items() if a is not None}
        self.unfinished, self.begun = set(self.jobs), set[int]()
        self.targets = [a for a in self.made.values() if isinstance(a, Target)]

        asked: list[Artifact] = [*self.targets] or [*self.made.values()]
        listed = states(plan, asked, measure(plan, asked))
        ours = {artifact.path for artifact in self.made.values()}
        self.here = [s for s in listed if s.status == HAVE]
        self.left = {
            s.artifact.path: s for s in listed if s.status == NEED and s.artifact.path in ours
        }
        self.ended: list[State] = []
        # by stage, of the ended jobs: seconds, and what was estimated
        self.taken: defaultdict[str, float] = defaultdict(float)
        self.expected: defaultdict[str, float] = defaultdict(float)
        self.told: list[str] = []  # jobs that ended since the last line
        self.first: dict[Path, int] = {}  # of each log, the first step that this workflow made

    def begin(self, jobids: Iterable[int]) -> None:
        """Jobs have begun, or wait in a cluster's queue."""
        self.begun.update(jobids)

    def finish(self, jobid: int) -> None:
        """A job has ended well."""
        self.unfinished.discard(jobid)
        self.begun.discard(jobid)
        job, artifact = self.jobs[jobid], self.made.pop(jobid, None)
        self.told.append(_name(job, artifact))
        state = self.left.pop(artifact.path, None) if artifact else None
        if artifact is None or state is None:
            return

        self.ended.append(state)
        seconds = as_seconds(read_mapping(beside(artifact.outputs[0])).get("seconds"))
        if seconds:  # 0 is unknown
            self.told[-1] += f" ({_say(seconds)})"
            self.taken[state.stage] += PROCESS + seconds
            self.expected[state.stage] += state.seconds or PROCESS + seconds

    def line(self) -> str:
        """Share of the work, finished rows or tables, time left, and which jobs have ended."""
        more = [f"and {len(self.told) - SHOWN} more"] if len(self.told) > SHOWN else []
        finished = "; finished: " + ", ".join([*self.told[:SHOWN], *more])
        self.told.clear()
        return ", ".join(filter(None, [*self._describe_work(), self._describe_rows()])) + finished

    def fail(self, job: Job) -> str:
        """One line about a job that failed, or saved and stopped, while others go on."""
        logs = [Path(log) for log in job.log]
        if stop := next(filter(None, map(find_stop, logs)), ""):
            return stop
        said = next(filter(None, map(find_error, logs)), "its log says nothing")
        return f"failed: {_name(job, self.made.get(job.jobid))}: {said}"

    def _describe_work(self) -> list[str]:
        if any(s.seconds is None for s in (*self.left.values(), *self.ended)):
            jobs = f"{len(self.jobs) - len(self.unfinished)} of {len(self.jobs)} jobs"
            return [f"{jobs}; the work is {describe(None)}"]

        before = sum(map(self._weigh, self.here))
        paths = {self.made[jobid].path for jobid in self.begun & self.made.keys()}
        running = [state for path in paths if (state := self.left.get(path))]
        begun = sum(self._measure_share(s) * self._weigh(s) for s in running)
        done = begun + sum(map(self._weigh, self.ended))
        left = sum(map(self._weigh, self.left.values())) - begun
        if not self.unfinished:
            return ["100 % of the work"]

        # What has no estimate, such as a table, is left when all else is done.
        total = before + done + left
        share = min(int(100 * (before + done) / total), 99) if total else 0
        passed = self.clock() - self.since
        time_left = f"about {_say(left * passed / done)} left" if done and left else ""
        return [f"{share} % of the work", time_left]

    def _weigh(self, state: State) -> float:
        """Seconds of a job: the estimate, times what the ended ones of its stage took of theirs."""
        stages = [state.stage] if state.stage in self.expected else list(self.expected)
        expected = sum(self.expected[s] for s in stages)
        factor = sum(self.taken[s] for s in stages) / expected if expected else 1.0
        return (state.seconds or 0.0) * factor

    def _measure_share(self, state: State) -> float:
        """What this workflow has done of a job that runs; an older log is of another one."""
        log = find_progress(state.artifact)
        if not log.is_file() or log.stat().st_mtime < self.since:
            return 0.0
        steps = find_steps(log)
        if not steps:
            return 0.0
        # Each slice of time begins the log anew, and what the earlier ones did counts too.
        begun = int(steps[0]["done"])
        first = self.first[log] = min(self.first.get(log, begun), begun)
        return (int(steps[-1]["done"]) - first + 1) / int(steps[0]["total"])

    def _describe_rows(self) -> str:
        """Rows of the one table whose records are all here, or finished tables and figures."""
        if len(self.targets) == 1 and isinstance(self.targets[0], Table):
            rows: dict[str, bool] = {}
            for cell in self.targets[0].cells:
                here = all(r.path not in self.left for r in cell.records.values())
                if cell.records:
                    rows[cell.row] = rows.get(cell.row, True) and here
            return f"{sum(rows.values())} of {len(rows)} rows"
        left = sum(isinstance(a, Target) for a in self.made.values())
        count = len(self.targets)
        return f"{count - left} of {count} tables and figures" if count else ""


def _say(seconds: float) -> str:
    return f"{seconds:.{0 if seconds >= 10 else 1}f} s" if seconds < 90 else describe(seconds)


def _name(job: Job, artifact: Artifact | None) -> str:
    """A job as people read it: without digests."""
    if artifact is None:
        return str(job.rule)
    return f"{job.rule} {DIGEST.sub('', artifact.id)}"


class Lines(logging.Formatter):
    """Snakemake's own words, but for those about finished jobs."""

    def __init__(self, own: logging.Formatter, headway: Headway) -> None:
        super().__init__()
        self.own, self.headway = own, headway

    def format(self, record: logging.LogRecord) -> str:
        """One line after the jobs that ended together; nothing is printed of an empty text."""
        event = getattr(record, "event", None)
        if event == "job_started":
            self.headway.begin(record.__dict__["jobs"])
            return ""
        if event == "job_finished":
            self.headway.finish(record.__dict__["job_id"])
            return ""
        if event == "progress":
            return self.headway.line()
        if CHATTER.match(str(record.msg)):
            return ""
        return self.own.format(record)


class Failures(logging.Handler):
    """Says at once which job failed: `-q rules` hides it to the end of the workflow."""

    def __init__(self, headway: Headway) -> None:
        super().__init__()
        self.headway = headway

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line about a failed job."""
        job = self.headway.jobs.get(record.__dict__.get("jobid", -1))
        if getattr(record, "event", None) == "job_error" and job is not None:
            print(self.headway.fail(job), file=sys.stderr, flush=True)


def attach(plan: Plan, jobs: Iterable[Job], logger: logging.Logger) -> None:
    """Let the progress of these jobs be told by work; whoever chose another logger keeps that."""
    own = [h for h in logger.handlers if h.name == "DefaultStreamHandler"]
    if own and own[0].formatter:
        headway = Headway(plan, jobs)
        own[0].setFormatter(Lines(own[0].formatter, headway))
        logger.addHandler(Failures(headway))
