# Build a table from records. Its receipt says whether it is today's.
rule tabulate:
    input:
        plan=lambda wc: jobs.target_input(PLAN, wc.folder + wc.table, ancient),
        made_of=ancient(made_of("tabulate")),
    output:
        csv=report(
            "results/{folder}{table}.csv",
            caption="captions/table.rst",
            category="Tables",
            labels={"table": "{folder}{table}", "as": "numbers"},
        ),
        md="results/{folder}{table}.md",
        tex="results/{folder}{table}.tex",
        json="results/{folder}{table}.json",
        png=report(
            "results/{folder}{table}.png",
            caption="captions/picture.rst",
            category="Tables",
            labels={"table": "{folder}{table}", "as": "picture"},
        ),
        pdf="results/{folder}{table}.pdf",
    log:
        "logs/tabulate/{folder}{table}.log",
    wildcard_constraints:
        table=r"(?!(claims|audit|reproduced|report)\.)[a-z0-9_]+",
        folder=jobs.table_folder(PLAN),
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.tabulate {output.csv} > {log} 2>&1"


# One page with all that is finished, to look at and to mail.
rule present:
    input:
        plan=lambda wc: jobs.page_input(PLAN, ancient),
        made_of=lambda wc: jobs.page_inputs(PLAN),
    output:
        report(
            "results/report.html",
            caption="captions/page.rst",
            category="Pages",
            labels={"page": "everything that is finished"},
        ),
        receipt="results/report.json",
    log:
        "logs/present/report.log",
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.present > {log} 2>&1"


# The papers' sentences against all tables, and against their own.
rule claims:
    input:
        tables=jobs.uncut_tables(PLAN),
        claims=["data/claims/ours.csv", "data/claims/printed.csv"],
    output:
        report(
            "results/claims.md",
            caption="captions/claims.rst",
            category="Pages",
            labels={"page": "claims"},
        ),
        receipt="results/claims.json",
    log:
        "logs/tabulate/claims.log",
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.claims > {log} 2>&1"


# What the papers' gains are made of, from the tables that data/claims/gains.csv names.
rule audit:
    input:
        tables=jobs.claimed_tables(PLAN, "data/claims/gains.csv"),
        claims="data/claims/gains.csv",
    output:
        csv=report(
            "results/audit.csv",
            caption="captions/audit.rst",
            category="Pages",
            labels={"page": "gain audit", "as": "numbers"},
        ),
        md="results/audit.md",
        json="results/audit.json",
        png=report(
            "results/audit.png",
            caption="captions/audit.rst",
            category="Pages",
            labels={"page": "gain audit", "as": "picture"},
        ),
        pdf="results/audit.pdf",
    log:
        "logs/tabulate/audit.log",
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.audit > {log} 2>&1"


# Every published number beside ours, from all tables.
rule reproduced:
    input:
        tables=jobs.uncut_tables(PLAN),
    output:
        report(
            "results/reproduced.csv",
            caption="captions/reproduced.rst",
            category="Pages",
            labels={"page": "reproduced"},
        ),
        md="results/reproduced.md",
    log:
        "logs/tabulate/reproduced.log",
    conda:
        ENVIRONMENT
    shell:
        "exec python -m pipeline.reproduced > {log} 2>&1"
