# Table of contents: a version floor, the configuration, one rule file a stage, the targets.
import glob
import os

from snakemake.utils import min_version

min_version("9.17.0")

# jobs run the copy of plan and code that their workflow started with (pipeline/plan/frozen.py)
HERE = os.environ.get("ROBUST_FROZEN", workflow.basedir)


include: f"{HERE}/pipeline/rules/plan.smk"


# after our strict reader has read them: Snakemake's own follows aliases without end
configfile: f"{HERE}/params.yaml"


for page in sorted(glob.glob(f"{HERE}/papers/*.yaml")):

    configfile: page


include: f"{HERE}/pipeline/rules/download.smk"
include: f"{HERE}/pipeline/rules/train.smk"
include: f"{HERE}/pipeline/rules/average.smk"
include: f"{HERE}/pipeline/rules/adopt.smk"
include: f"{HERE}/pipeline/rules/transfer.smk"
include: f"{HERE}/pipeline/rules/evaluate.smk"
include: f"{HERE}/pipeline/rules/tabulate.smk"
include: f"{HERE}/pipeline/rules/figure.smk"


localrules:
    all,
    tables,
    figures,
    adopt,
    download,
    prepare,
    tabulate,
    plot,
    claims,
    audit,
    reproduced,
    present,


rule all:
    default_target: True
    input:
        "results/table1.csv",


for stage, made in jobs.stages(PLAN).items():

    rule:
        name:
            stage
        input:
            [str(table.path) for table in made],
        localrule: True


rule tables:
    input:
        jobs.uncut_tables(PLAN),
        "results/claims.md",


rule figures:
    input:
        jobs.figures(PLAN),
