"""One table of all scores, and what is drawn from it."""


rule collect:
    input:
        scores=all_scores(),
        fits=all_fits(),
        rankings=all_rankings(),
        activations=all_activations(),
        manifests=all_manifests(),
    output:
        f"{RESULTS}/results.parquet",
        f"{RESULTS}/results.csv",
        f"{RESULTS}/items.parquet",
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        runs=short_hash(sorted(TABLE.evaluations)),
    shell:
        "python -m lofit collect > {log:q} 2>&1"


rule main_table:
    input:
        f"{RESULTS}/results.parquet",
    output:
        expand(f"{RESULTS}/tables/{{name}}.{{form}}", name=MAIN_TABLES, form=["csv", "md", "tex"]),
    log:
        f"{RESULTS}/logs/main_table.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        tasks=list(CONFIG.tasks),
    shell:
        "python -m lofit table > {log:q} 2>&1"


rule suite:
    input:
        f"{RESULTS}/results.parquet",
        f"{RESULTS}/items.parquet",
    output:
        multiext(f"{RESULTS}/tables/suite", ".csv", ".md"),
    log:
        f"{RESULTS}/logs/suite.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        tasks=CONFIG.suite or list(CONFIG.tasks),
    shell:
        "python -m lofit suite > {log:q} 2>&1"


rule retention:
    input:
        f"{RESULTS}/results.parquet",
        f"{RESULTS}/items.parquet",
    output:
        multiext(f"{RESULTS}/tables/retention", ".csv", ".md"),
    log:
        f"{RESULTS}/logs/retention.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        tasks=list(CONFIG.retention),
    shell:
        "python -m lofit retention > {log:q} 2>&1"


rule overlap:
    input:
        all_rankings(),
    output:
        multiext(f"{RESULTS}/tables/overlap", ".csv", ".md"),
    log:
        f"{RESULTS}/logs/overlap.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        rankings=short_hash(sorted(TABLE.localize)),
        k=TABLE.head_counts(),
    shell:
        "python -m lofit overlap > {log:q} 2>&1"


rule transfer:
    input:
        f"{RESULTS}/results.parquet",
    output:
        multiext(f"{RESULTS}/figures/transfer", ".pdf", ".png", ".csv"),
    log:
        f"{RESULTS}/logs/transfer.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        transfer=CONFIG.transfer.model_dump_json() if CONFIG.transfer else None,
    shell:
        "python -m lofit figure > {log:q} 2>&1"


rule experiment_table:
    input:
        f"{RESULTS}/results.parquet",
        f"{RESULTS}/items.parquet",
    output:
        multiext(f"{RESULTS}/tables/{{table}}", ".csv", ".md", ".tex"),
    log:
        f"{RESULTS}/logs/experiments/{{table}}.log",
    wildcard_constraints:
        table=any_of(experiments("table")) or "none",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=lambda wildcards: CONFIG.experiment(wildcards.table).model_dump_json(),
    shell:
        "python -m lofit experiment {wildcards.table:q} > {log:q} 2>&1"


rule experiment_figure:
    input:
        f"{RESULTS}/results.parquet",
        f"{RESULTS}/items.parquet",
    output:
        multiext(f"{RESULTS}/figures/{{figure}}", ".pdf", ".png", ".csv"),
    log:
        f"{RESULTS}/logs/experiments/{{figure}}.log",
    wildcard_constraints:
        figure=any_of(experiments("curve", "layers", "pareto")) or "none",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=lambda wildcards: CONFIG.experiment(wildcards.figure).model_dump_json(),
    shell:
        "python -m lofit experiment {wildcards.figure:q} > {log:q} 2>&1"
