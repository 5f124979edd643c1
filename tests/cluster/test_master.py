"""What a master sets up before its first job."""

from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.settings.types import MaxJobsPerTimespan

from pipeline.cluster import master


@pytest.mark.parametrize(("asked", "lifted"), [(None, True), ("100/1s", True), ("5/1m", False)])
def test_snakemakes_own_limit_on_starts_is_lifted_and_a_users_stays(asked, lifted):
    default = get_argument_parser().get_default("max_jobs_per_timespan")
    scheduler = SimpleNamespace(job_rate_limiter="a limit")
    master.look_once_a_job(scheduler, MaxJobsPerTimespan.parse_choice(asked or default))
    assert (scheduler.job_rate_limiter is None) == lifted
