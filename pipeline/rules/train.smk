# Train a run; derive a trajectory's snapshots where an average needs them.
os.environ |= requested.pack_environment(sys.argv)


rule train:
    input:
        made_of=ancient(made_of("train")),
    output:
        **jobs.run_outputs("train"),
    log:
        "logs/train/{run}.log",
    wildcard_constraints:
        run=jobs.train_pattern(PLAN),
    priority: ORDER.of("train")
    group:
        lambda wc: ASKED.pack(wc, workflow.group_settings)
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("train"),
    shell:
        "exec python -m pipeline.train {wildcards.run} > {log} 2>&1"


rule trajectory:
    input:
        made_of=ancient(made_of("trajectory")),
    output:
        "results/snapshots/{run}/from{epoch}.json",
    log:
        "logs/trajectory/{run}-from{epoch}.log",
    priority: ORDER.of("trajectory")
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("trajectory"),
    shell:
        "exec python -m pipeline.train {wildcards.run} --snapshots-from {wildcards.epoch}"
        " > {log} 2>&1"
