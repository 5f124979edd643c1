# Craft the adversarial images of one surrogate and one attack, for every victim.
rule transfer:
    input:
        made_of=ancient(made_of("transfer")),
    output:
        "results/transfer/{set}.safetensors",
    log:
        "logs/transfer/{set}.log",
    wildcard_constraints:
        set="[a-z0-9_-]+",
    priority: ORDER.of("transfer")
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("transfer"),
    shell:
        "exec python -m pipeline.transfer {wildcards.set} > {log} 2>&1"
