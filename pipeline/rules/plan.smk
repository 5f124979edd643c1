# What the rules ask the plan: paths and inputs. Everything is named by what determines it.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from pipeline.errors import UserError
from pipeline.plan import load_plan, workflow as jobs

try:
    PLAN = load_plan()
    jobs.check_config(PLAN, config)
    jobs.make_marks(PLAN)
except UserError as error:
    raise WorkflowError(f"error: {error}") from None


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
    print(jobs.summary(PLAN))


onsuccess:
    print("done: `make record` remembers these results, `dvc push` shares them")
