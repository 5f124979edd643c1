"""What a master sets up before its first job."""

import inspect
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from pipeline.cluster import master


@pytest.mark.parametrize(("asked", "lifted"), [(None, True), ("100/1s", True), ("5/1m", False)])
def test_snakemakes_own_limit_on_starts_is_lifted_and_a_users_stays(asked, lifted):
    default = get_argument_parser().get_default("max_jobs_per_timespan")
    assert "self.job_rate_limiter is None" in inspect.getsource(JobScheduler)  # what it obeys
    scheduler = SimpleNamespace(job_rate_limiter="a limit")
    master.look_once_a_job(scheduler, MaxJobsPerTimespan.parse_choice(asked or default))
    assert (scheduler.job_rate_limiter is None) == lifted
