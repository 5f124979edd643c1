# Fetch raw files and prepare arrays: once per data set.
rule download:
    output:
        "data/raw/{dataset}/verified.json",
    log:
        "logs/download/{dataset}.log",
    conda:
        ENVIRONMENT
    resources:
        network=1,
    shell:
        "exec python -m pipeline.download {wildcards.dataset} > {log} 2>&1"


rule prepare:
    input:
        made_of=ancient(made_of("prepare")),
    output:
        train="data/{dataset}/{digest}/train.safetensors",
        validation="data/{dataset}/{digest}/validation.safetensors",
        test="data/{dataset}/{digest}/test.safetensors",
    log:
        "logs/prepare/{dataset}-{digest}.log",
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.prepare {wildcards.dataset} > {log} 2>&1"
