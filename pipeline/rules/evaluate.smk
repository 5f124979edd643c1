# Attack one victim with one suite.
rule evaluate:
    input:
        made_of=ancient(made_of("evaluate")),
    output:
        "results/records/{victim}/{suite}.npz",
    log:
        "logs/evaluate/{victim}/{suite}.log",
    priority: ORDER.of("evaluate")
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("evaluate"),
    shell:
        "exec python -m pipeline.evaluate {wildcards.victim}/{wildcards.suite} > {log} 2>&1"
