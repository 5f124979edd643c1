# Train a run; derive a trajectory's snapshots where an average needs them.
os.environ |= requested.pack_environment(sys.argv)


rule train:
    input:
        data=ancient(lambda wc: jobs.data(PLAN.run(wc.run))),
        parents=ancient(lambda wc: jobs.parents(PLAN, wc.run)),
    output:
        weights="results/runs/{run}/weights.safetensors",
        best="results/runs/{run}/best.safetensors",
        history="results/runs/{run}/history.csv",
        spec="results/runs/{run}/run.json",
    log:
        "logs/train/{run}.log",
    wildcard_constraints:
        run=jobs.train_pattern(PLAN),
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
        weights=ancient("results/runs/{run}/weights.safetensors"),
    output:
        "results/snapshots/{run}/from{epoch}.json",
    log:
        "logs/trajectory/{run}-from{epoch}.log",
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("train"),
    shell:
        "exec python -m pipeline.train {wildcards.run} --snapshots-from {wildcards.epoch}"
        " > {log} 2>&1"
