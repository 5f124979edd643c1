# Take in weights that were trained elsewhere.
rule adopt:
    input:
        data=ancient(lambda wc: jobs.data(PLAN.run(wc.run))),
        file=ancient(lambda wc: jobs.adopted(PLAN, wc.run)),
    output:
        weights="results/runs/{run}/weights.safetensors",
        spec="results/runs/{run}/run.json",
    log:
        "logs/adopt/{run}.log",
    wildcard_constraints:
        run=jobs.adopt_pattern(PLAN),
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.adopt {wildcards.run} > {log} 2>&1"
