# Average a trajectory.
rule average:
    input:
        data=ancient(lambda wc: jobs.data(PLAN.run(wc.run))),
        trajectory=ancient(lambda wc: jobs.trajectory(PLAN, wc.run)),
    output:
        weights="results/runs/{run}/weights.safetensors",
        spec="results/runs/{run}/run.json",
    log:
        "logs/average/{run}.log",
    wildcard_constraints:
        run=jobs.average_pattern(PLAN),
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("average"),
    shell:
        "exec python -m pipeline.average {wildcards.run} > {log} 2>&1"
