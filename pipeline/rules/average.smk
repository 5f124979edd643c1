# Average a trajectory.
rule average:
    input:
        data=ancient(lambda wc: jobs.data(PLAN.run(wc.run))),
        trajectory=ancient(lambda wc: jobs.trajectory(PLAN, wc.run)),
    output:
        weights="results/runs/{run}/weights.safetensors",
        spec="results/runs/{run}/run.json",
    wildcard_constraints:
        run=jobs.average_pattern(PLAN),
    log:
        "logs/average/{run}.log",
    shell:
        "python -m pipeline.average {wildcards.run} > {log} 2>&1"
