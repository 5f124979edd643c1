# What the rules ask the plan: paths and inputs. Everything is named by what determines it.
import os
import sys
from functools import partial

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

sys.path.insert(0, HERE)

from pipeline import spare_collection
from pipeline.cluster import master, patience, site
from pipeline.errors import UserError
from pipeline.cluster import resources as requested
from pipeline.plan import frozen, order, shared, workflow as jobs
from pipeline.share import guard

spare_collection()
master.leave_warnings_to_commands()
SITE = site.of_profile(
    workflow.resource_settings.default_resources, workflow.is_main_process
)
try:
    PLAN = jobs.load(sys.argv, workflow.is_main_process)
    FINGERPRINT = frozen.fingerprint() if workflow.is_main_process else None
    ASKED = requested.Resources(PLAN, SITE)
    ORDER = order.Order(PLAN, is_main=workflow.is_main_process)
    jobs.check_config(PLAN, config)
    if workflow.is_main_process:
        master.check_folder()
        jobs.mark_targets(PLAN)
        shared.warn(PLAN)
except UserError as error:
    raise WorkflowError(f"error: {error}") from None

# of a rule, the function that says what a job reads
made_of = partial(jobs.name_inputs, PLAN, whole=not workflow.is_main_process)
ENVIRONMENT = f"{workflow.basedir}/envs/conda.yaml"  # used with --sdm conda only


wildcard_constraints:
    dataset="[a-z0-9_]+",
    digest="[0-9a-f]+",
    run="[a-z0-9_-]+",
    victim="[a-z0-9_-]+",
    suite="[a-z0-9_]+-[0-9a-f]+",
    table="[a-z0-9_]+",
    folder="([a-z0-9_]+/)?",
    epoch="[0-9]+",


onstart:
    try:
        guard.check_jobs(PLAN, workflow.dag.needrun_jobs())
        master.begin(PLAN, FINGERPRINT)
        master.note_asked(workflow.dag.targetjobs)
        patience.attach(workflow.scheduler._executor, ASKED.kills, ASKED.overruns)
        master.look_once_a_job(
            workflow.scheduler, workflow.scheduling_settings.max_jobs_per_timespan
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # -q would swallow it
        raise WorkflowError("refused: see above") from None
    made = [str(f) for job in workflow.dag.needrun_jobs() for f in job.output]
    print(jobs.summary(PLAN, made), flush=True)
    from pipeline.cluster import headway  # which no single job needs

    headway.attach(PLAN, workflow.dag.needrun_jobs(), logger)
    # With conda or a container a job has a Python of its own.
    is_elsewhere = workflow.deployment_settings.deployment_method
    if workflow.local_exec and not is_elsewhere and not workflow.touch:
        master.load_once(len(list(workflow.dag.needrun_jobs())))


onerror:
    master.explain()
    jobs.sweep(PLAN)
    master.end()


onsuccess:
    jobs.sweep(PLAN)
    master.end()
    try:
        if not workflow.touch:
            master.check_made(workflow.dag.targetjobs)
    except UserError as error:
        raise WorkflowError(f"error: {error}") from None
    print("done: `make record` remembers these results, `dvc push` shares them")
