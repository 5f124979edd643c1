# Craft the adversarial images of one surrogate and one attack, for every victim.
rule transfer:
    input:
        data=ancient(lambda wc: jobs.data(PLAN.set(wc.set))),
        weights=ancient(lambda wc: jobs.surrogate(PLAN, wc.set)),
    output:
        "results/transfer/{set}.safetensors",
    log:
        "logs/transfer/{set}.log",
    wildcard_constraints:
        set="[a-z0-9_-]+",
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("transfer"),
    shell:
        "exec python -m pipeline.transfer {wildcards.set} > {log} 2>&1"
