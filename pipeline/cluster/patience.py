"""SLURM may be away, busy or forgetful: what its executor (2.8.0) lacks to go on behind that.

By itself it forgets its jobs, and waits for ever, when five looks in a row get no answer; it asks
an accounting that may not exist while slurmctld restarts; it knows no state "CANCELLED by 1000";
it waits for ever for a job that SLURM lost; a refused submission is to it a failed job, and so
is the end of a time slice (pipeline/cluster/slices.py).
"""

import re
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.cluster import refusals, slices
from pipeline.errors import UserError

PLUGIN = "snakemake_executor_plugin_slurm"
LOST_SECONDS = 600  # without an end or a requeue; accounting may lag by minutes
TELL_SECONDS = 60  # without an answer, until a line says so
BUSY_SECONDS = 30  # between two tries to submit
# states in which SLURM either starts a job again or has forgotten it
LIMBO = ("PREEMPTED", "NODE_FAIL", "REQUEUED", "")
BUSY = re.compile(
    "temporarily unable|Unable to contact|Socket timed out|(Max|Grp)SubmitJob|MAX_SUBMIT"
    "|Zero Bytes were transmitted|Resource temporarily unavailable|Connection refused"
)
# said of a submit limit, but also of a size that no queue takes
LIMIT = "Job violates accounting/QOS policy"
SBATCH = re.compile(r"The error message was '(.*?)'\.\n", re.DOTALL)  # as the executor quotes it

Statuses = dict[str, str]


def attach(executor: Any, kills: Counter[str], overruns: Counter[str]) -> None:
    """Put patience between SLURM and its executor; any other executor stays as it is.

    `kills` counts how often SLURM killed a job for its memory, `overruns` how often it ran out of
    time with nothing saved, both by `slices.key`.
    Raises UserError where an executor is installed that this was not made for.
    """
    module = sys.modules[type(executor).__module__]
    if module.__name__ == PLUGIN:
        needed = (module, "query_job_status"), (executor, "_report_job_error_threadsafe")
        if not all(hasattr(owner, name) for owner, name in needed):
            raise UserError(f"{PLUGIN}: is not the version of envs/common.txt; run `make setup`")
        Patience(executor, module, kills, overruns)


class Patience:
    """Stands in for four functions of an executor, for as long as it lives."""

    def __init__(
        self,
        executor: Any,
        module: Any,
        kills: Counter[str],
        overruns: Counter[str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.executor, self.kills, self.overruns, self.now = executor, kills, overruns, now
        self.asked: dict[str, Any] = {}  # jobs of the look that is on its way, by SLURM's id
        self.since: dict[str, tuple[str, float]] = {}  # in limbo: state and its first moment
        self.ended: set[str] = set()  # time slices
        self.count: Counter[str] = Counter()  # of slices, by what a job is about
        self.saved: dict[str, int] = {}  # progress at the start of a slice
        self.found: dict[str, list[int]] = {}  # times of outputs that were there before
        self.refused: set[str] = set()  # sbatch's words, told already
        self.answered, self.told = now(), 0.0
        self.closing = threading.Event()

        # The executor's own functions are kept, since ours call them.
        self._query, self._check = module.query_job_status, executor.check_active_jobs
        self._run, self._cancel = executor.run_job, executor.cancel_jobs
        self._report = executor._report_job_error_threadsafe
        module.query_job_status = self.query
        executor.check_active_jobs, executor.run_job = self.check, self.run
        executor.cancel_jobs, executor._report_job_error_threadsafe = self.cancel, self.report

    async def check(self, jobs: list[Any]) -> AsyncIterator[Any]:
        """Jobs that are neither done nor failed."""
        self.asked = {job.external_jobid: job for job in jobs}
        before = len(self.ended)
        async for job in self._check(jobs):
            # A job whose slice ended goes on under another id: this one is done with.
            if job.external_jobid not in self.ended:
                yield job
        self.asked = {}

        if len(self.ended) > before:  # looks become seldom while nothing ends
            settings = self.executor.workflow.executor_settings
            first = settings.init_seconds_before_status_checks
            self.executor.next_seconds_between_status_checks = first

    async def query(self, command: str, logger: Any) -> tuple[Statuses, float]:
        """States by id and the seconds it took; none known where SLURM does not answer.

        A job without a state is asked for again at the next look.
        """
        statuses, took = await self._query(command, logger)
        if statuses is None:
            self._tell_silence(command.split()[0])
            return {}, 0.0

        if self.told:
            _say("SLURM answers again")
        self.answered, self.told = self.now(), 0.0
        return self._read_ends(statuses), took

    def _tell_silence(self, command: str) -> None:
        silent = self.now() - self.answered
        if silent >= max(TELL_SECONDS, 2 * self.told):  # seldom, and ever more seldom
            self.told = silent
            _say(f"{command}: no answer for {silent:.0f} s; SLURM's jobs go on, this waits")

    def _read_ends(self, statuses: Statuses) -> Statuses:
        """States in one word, as the executor is to see them."""
        words = {id: state.partition(" ")[0] for id, state in statuses.items()}

        for id, info in self.asked.items():
            if id not in self.ended:
                words[id] = self._judge(id, words.get(id, ""), info)
        return {id: state for id, state in words.items() if state}

    def _judge(self, id: str, state: str, info: Any) -> str:
        """A job too long in limbo is over; one whose slice ended is submitted again."""
        job, key = info.job, slices.key(info.job)
        # SLURM starts such a job again by itself, or has forgotten it: which, time will tell.
        if state in LIMBO:
            known, since = self.since.get(id, ("none", 0.0))
            if known != state:
                self.since[id] = state, self.now()
            elif self.now() - since > LOST_SECONDS:
                _say(f"SLURM job {id} is {state or 'unknown to SLURM'} for too long: it is over")
                return _decide_outcome(job, self.found.get(key, []))
            return state

        self.since.pop(id, None)
        if slices.was_killed_for_memory(state, info):
            self.kills[key] += 1

        if slices.has_ended(state, id, job, self.saved.get(key, 0)):
            self.ended.add(id)
            self.count[key] += 1
            _say(f"SLURM job {id}: slice {self.count[key]} of {key} ended, the next is submitted")
            self.executor._job_submission_executor.submit(self.run, job)
            # To the executor the job goes on, so that it reports neither success nor failure.
            return "PENDING"
        if state == "TIMEOUT":
            self.overruns[key] += 1
        return state

    def run(self, job: Any) -> None:
        """Submit a job, unless the master is ending; whatever goes wrong is reported."""
        if self.closing.is_set():
            return
        try:
            # Compared when the slice ends: a job that was cut off and saved nothing has failed.
            self.saved[slices.key(job)] = slices.progress(job)
            self.found[slices.key(job)] = _list_times(job)
            self._run(job)
        except Exception as error:  # in a thread whose errors nobody reads
            info = SimpleNamespace(job=job, external_jobid=None)
            self._report(info, f"{type(error).__name__}: {error}")

    def cancel(self, active: list[Any]) -> None:
        """Cancel all jobs, those of a look that is on its way too, and submit no more."""
        self.closing.set()
        self._cancel(list((self.asked | {job.external_jobid: job for job in active}).values()))

    def report(self, info: Any, message: str) -> None:
        """Submit again, later, what a busy SLURM refused; any other refusal is a failed job."""
        if info.external_jobid is not None or not self._is_busy(message):
            self._tell_refusal(message)
            self._report(info, message)
            return
        _say(f"SLURM takes no job now, tried again every {BUSY_SECONDS} s: {_find_reason(message)}")
        # A wait that the end of the master cuts short, unlike a sleep.
        if not self.closing.wait(BUSY_SECONDS):
            self.executor._job_submission_executor.submit(self.run, info.job)

    def _tell_refusal(self, message: str) -> None:
        """Say once what sbatch refuses: all jobs of a stage ask for the same."""
        words = SBATCH.search(message)
        if words and words[1] not in self.refused:
            self.refused.add(words[1])
            _say(refusals.explain(words[1]))

    def _is_busy(self, message: str) -> bool:
        """Whether the refusal is one of this moment: a limit is while own jobs fill it."""
        own = bool(self.asked or self.executor.active_jobs)
        return bool(BUSY.search(message)) or (own and LIMIT in message)


def _decide_outcome(job: Any, before: list[int]) -> str:
    """What became of a job that SLURM forgot: its files are whole or absent, or those of `before`,
    which a table or figure of an older plan has."""
    now = _list_times(job)
    return "COMPLETED" if len(now) == len(list(job.output)) and now != before else "FAILED"


def _list_times(job: Any) -> list[int]:
    """When each output that is there was written."""
    files = [Path(file) for file in job.output]
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def _find_reason(message: str) -> str:
    """sbatch's own words in an executor's message."""
    match = SBATCH.search(message)
    return " ".join((match[1] if match else message).split())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
