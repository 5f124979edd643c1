# Draw a figure: from records alone, and where weights are needed as a job of its own.
rule plot:
    input:
        plan=lambda wc: jobs.target_input(
            PLAN, wc.figure, ancient, workflow.is_main_process
        ),
        made_of=ancient(made_of("plot")),
    output:
        png=report(
            "results/{figure}.png",
            caption="captions/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        pdf="results/{figure}.pdf",
        csv="results/{figure}.csv",
        json="results/{figure}.json",
    log:
        "logs/plot/{figure}.log",
    wildcard_constraints:
        figure=jobs.figure_pattern(PLAN, reads_weights=False),
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.figure {output.png} > {log} 2>&1"


rule figure:
    input:
        plan=lambda wc: jobs.target_input(
            PLAN, wc.figure, ancient, workflow.is_main_process
        ),
        made_of=ancient(made_of("figure")),
    output:
        png=report(
            "results/{figure}.png",
            caption="captions/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        pdf="results/{figure}.pdf",
        csv="results/{figure}.csv",
        json="results/{figure}.json",
    log:
        "logs/figure/{figure}.log",
    wildcard_constraints:
        figure=jobs.figure_pattern(PLAN, reads_weights=True),
    conda:
        ENVIRONMENT
    resources:
        **ASKED.of("figure"),
    shell:
        "exec python -m pipeline.figure {output.png} > {log} 2>&1"
