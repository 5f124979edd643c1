"""What we take from Snakemake, its SLURM executor and DVC without their promising it.

A failure here is an upgrade's: the sentence says what it broke, and where to mend it.
"""

from dataclasses import fields
from inspect import getsource, signature

import pytest
import snakemake.cli  # noqa: F401  # before its parts, which import each other
import snakemake_executor_plugin_slurm as slurm
from dvc.data_cloud import DataCloud
from dvc.fs import localfs
from dvc.ignore import DvcIgnoreFilter
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.state import StateNoop
from dvc_data.hashfile.tree import Tree
from snakemake.dag import DAG
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import GroupSettings, ResourceSettings, SchedulingSettings
from snakemake.workflow import Workflow


def takes(function, *names):
    """Whether a function has these arguments."""
    return set(names) <= set(signature(function).parameters)


def has(owner, *names):
    return all(hasattr(owner, name) for name in names)


def has_fields(owner, *names):
    """Whether a dataclass has these fields, and lets them be set."""
    is_frozen = owner.__dataclass_params__.frozen
    return set(names) <= {f.name for f in fields(owner)} and not is_frozen


def says(owner, *texts):
    """Whether these stand in the code of a class or module, which sets or reads them."""
    return all(text in getsource(owner) for text in texts)


SNAKEMAKE = {
    "rules/plan.smk asks the DAG for jobs and targets: needrun_jobs() or targetfiles is gone": (
        lambda: has(DAG, "needrun_jobs") and says(DAG, "self.targetfiles =")
    ),
    "rules/plan.smk gives the scheduler's executor patience: _executor is no more": (
        lambda: says(JobScheduler, "self._executor = ")
    ),
    "cluster/master.py lifts the limit on starts: the scheduler no longer obeys job_rate_limiter": (
        lambda: says(JobScheduler, "self.job_rate_limiter is None")
    ),
    "cluster/master.py knows that limit: max_jobs_per_timespan is no scheduling setting": (
        lambda: has_fields(SchedulingSettings, "max_jobs_per_timespan")
    ),
    "cluster/resources.py sizes packs after the rules are read: group_components moved": (
        lambda: (
            has_fields(GroupSettings, "group_components")
            and says(DAG, "self.workflow.group_settings.group_components")
        )
    ),
    "cluster/site.py reads the profile: default_resources is no resource setting": (
        lambda: has_fields(ResourceSettings, "default_resources")
    ),
    "rules/plan.smk tells the master from its jobs: Workflow lacks what it asks": (
        lambda: (
            has(Workflow, "is_main_process", "basedir", "dag", "scheduler")
            and has_fields(Workflow, "resource_settings", "group_settings", "scheduling_settings")
        )
    ),
}
EXECUTOR = {
    "cluster/patience.py stands in for functions of the executor: one has another name": (
        lambda: has(slurm.Executor, "check_active_jobs", "run_job", "cancel_jobs")
    ),
    "cluster/patience.py answers for query_job_status(command, logger): it asks otherwise": (
        lambda: (
            takes(slurm.query_job_status, "command", "logger")
            and says(slurm.Executor.check_active_jobs, "await query_job_status(")
        )
    ),
    "cluster/patience.py hears of refusals by _report_job_error_threadsafe: it is gone": (
        lambda: has(slurm.Executor, "_report_job_error_threadsafe")
    ),
    "cluster/patience.py submits again by _job_submission_executor: it is gone": (
        lambda: says(slurm.Executor, "_job_submission_executor.submit(")
    ),
    "cluster/patience.py looks soon after a slice: the pause between looks has another name": (
        lambda: says(slurm, "next_seconds_between_status_checks", "init_seconds_before_status")
    ),
    "cluster/patience.py reads sbatch's words in a refusal: it is worded otherwise": (
        lambda: says(slurm, "The error message was '")
    ),
}


def build_tree():
    """A listing of one file as share/pools.py makes it."""
    tree = Tree()
    tree.add(("a", "b"), Meta(), HashInfo("md5", "0" * 32))
    tree.digest()
    return tree


DVC = {
    "share/pools.py waits for another DVC: Repo has no _wait_for_lock, or lock_repo changed": (
        lambda: takes(Repo, "_wait_for_lock") and takes(lock_repo, "repo")
    ),
    "share/pools.py fetches a listing alone: DataCloud.pull takes no objects": (
        lambda: takes(DataCloud.pull, "objs")
    ),
    "share/pools.py leaves out what DVC ignores: DvcIgnoreFilter.find changed": (
        lambda: takes(DvcIgnoreFilter.find, "fs", "path")
    ),
    "share/pools.py puts many files into the cache at once: HashFileDB changed": (
        lambda: takes(HashFileDB.add, "path", "fs", "oid") and has(HashFileDB, "exists")
    ),
    "share/pools.py names a damaged listing: HashFileDB.oid_to_path is gone": (
        lambda: has(HashFileDB, "oid_to_path")
    ),
    "share/pools.py sums files as DVC does: hash_file(path, fs, name, state)[1].value is no sum": (
        lambda: len(hash_file(__file__, localfs, "md5", StateNoop())[1].value) == 32
    ),
    "share/pools.py reads listings: Tree.load(odb, hash_info) changed": (
        lambda: takes(Tree.load, "odb", "hash_info")
    ),
    "share/pools.py writes listings: a Tree has another sum than the clones that read it know": (
        lambda: str(build_tree().oid) == "415836341e3a984be7ba271cccd5e1c3.dir"
    ),
    "share/pools.py writes listings: a Tree's entries are no longer (key, meta, oid)": (
        lambda: [(k, o.value) for k, _, o in build_tree()] == [(("a", "b"), "0" * 32)]
    ),
}


@pytest.mark.parametrize("broken", [*SNAKEMAKE, *EXECUTOR, *DVC])
def test_what_we_lean_on_is_as_it_was(broken):
    assert (SNAKEMAKE | EXECUTOR | DVC)[broken](), broken
