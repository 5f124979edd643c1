# Take in weights that were trained elsewhere.
rule adopt:
    input:
        made_of=ancient(made_of("adopt")),
    output:
        **jobs.run_outputs("adopt"),
    log:
        "logs/adopt/{run}.log",
    wildcard_constraints:
        run=jobs.adopt_pattern(PLAN),
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.adopt {wildcards.run} > {log} 2>&1"
