# Table of contents: a version floor, the configuration, one rule file a stage, the targets.
from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


include: "pipeline/rules/plan.smk"
include: "pipeline/rules/download.smk"
include: "pipeline/rules/train.smk"
include: "pipeline/rules/average.smk"
include: "pipeline/rules/adopt.smk"
include: "pipeline/rules/transfer.smk"
include: "pipeline/rules/evaluate.smk"
include: "pipeline/rules/tabulate.smk"


localrules:
    all,
    tables,
    download,
    prepare,
    tabulate,
    claims,


rule all:
    default_target: True
    input:
        "results/table1.csv",


rule tables:
    input:
        jobs.uncut_tables(PLAN),
