# Average a trajectory.
rule average:
    input:
        made_of=ancient(made_of("average")),
    output:
        **jobs.run_outputs("average"),
    log:
        "logs/average/{run}.log",
    wildcard_constraints:
        run=jobs.average_pattern(PLAN),
    priority: ORDER.of("average")
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("average"),
    shell:
        "exec python -m pipeline.average {wildcards.run} > {log} 2>&1"
