# Attack one victim with one suite.
rule evaluate:
    input:
        data=ancient(lambda wc: jobs.data(PLAN.record(f"{wc.victim}/{wc.suite}"))),
        weights=ancient(lambda wc: jobs.weights(PLAN, f"{wc.victim}/{wc.suite}")),
    output:
        "results/records/{victim}/{suite}.npz",
    log:
        "logs/evaluate/{victim}/{suite}.log",
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("evaluate"),
    shell:
        "exec python -m pipeline.evaluate {wildcards.victim}/{wildcards.suite} > {log} 2>&1"
