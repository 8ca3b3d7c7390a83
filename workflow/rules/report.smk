"""One table of all scores; each table and figure, from the scores that it is made of alone; and a page of all."""

COLLECTED = ["results.parquet", "results.csv", "items.parquet"]


rule collect:
    input:
        unpack(lambda wildcards: part_inputs("all")),
    output:
        expand(f"{RESULTS}/{{file}}", file=COLLECTED),
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        runs=short_hash(sorted(TABLE.evaluations)),
    shell:
        "python -m lofit collect > {log:q} 2>&1"


rule collect_part:
    input:
        unpack(lambda wildcards: part_inputs(wildcards.part)),
    output:
        expand(f"{RESULTS}/collected/{{part}}/{{file}}", file=COLLECTED, allow_missing=True),
    log:
        f"{RESULTS}/logs/collect/{{part}}.log",
    wildcard_constraints:
        part=any_of(TABLE.parts()[1:]),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        runs=lambda wildcards: short_hash(sorted(TABLE.part(wildcards.part))),
    shell:
        "python -m lofit collect {wildcards.part:q} > {log:q} 2>&1"


rule main_table:
    input:
        collected("main"),
    output:
        [path for name in MAIN_TABLES for path in table_outputs(name)],
    log:
        f"{RESULTS}/logs/main_table.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        tasks=list(CONFIG.tasks),
    shell:
        "python -m lofit table > {log:q} 2>&1"


rule suite:
    input:
        collected("main"),
    output:
        table_outputs("suite"),
    log:
        f"{RESULTS}/logs/suite.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        tasks=CONFIG.suite or list(CONFIG.tasks),
    shell:
        "python -m lofit suite > {log:q} 2>&1"


rule retention:
    input:
        collected("main"),
    output:
        table_outputs("retention"),
    log:
        f"{RESULTS}/logs/retention.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        tasks=list(CONFIG.retention),
    shell:
        "python -m lofit retention > {log:q} 2>&1"


rule overlap:
    input:
        all_rankings(),
    output:
        table_outputs("overlap") + (figure_outputs("overlap") if compares_tasks(TABLE) else []),
    log:
        f"{RESULTS}/logs/overlap.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        rankings=short_hash(sorted(TABLE.localize)),
        k=TABLE.head_counts(),
    shell:
        "python -m lofit overlap > {log:q} 2>&1"


rule search:
    input:
        [path for node in TABLE.tuned.values() for path in fit_files(node)],
    output:
        table_outputs("search"),
    log:
        f"{RESULTS}/logs/search.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        searches=short_hash(sorted(TABLE.tuned)),
    shell:
        "python -m lofit search > {log:q} 2>&1"


rule expected:
    input:
        expected_inputs,
    output:
        table_outputs("expected"),
    log:
        f"{RESULTS}/logs/expected.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        values=[str(row) for row, _ in COUNTERPARTS],
    shell:
        "python -m lofit expected > {log:q} 2>&1"


rule transfer:
    input:
        collected("transfer"),
    output:
        figure_outputs("transfer"),
    log:
        f"{RESULTS}/logs/transfer.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        transfer=CONFIG.transfer.model_dump_json() if CONFIG.transfer else None,
    shell:
        "python -m lofit figure > {log:q} 2>&1"


rule experiment_table:
    input:
        lambda wildcards: collected(wildcards.table),
    output:
        table_outputs("{table}"),
    log:
        f"{RESULTS}/logs/experiments/{{table}}.log",
    wildcard_constraints:
        table=any_of(experiments("table", "variance")) or "none",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        spec=lambda wildcards: CONFIG.experiment(wildcards.table).model_dump_json(),
    shell:
        "python -m lofit experiment {wildcards.table:q} > {log:q} 2>&1"


rule experiment_figure:
    input:
        figure_inputs,
    output:
        figure_outputs("{figure}"),
    log:
        f"{RESULTS}/logs/experiments/{{figure}}.log",
    wildcard_constraints:
        figure=any_of(experiments("curve", "layers", "pareto")) or "none",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        spec=lambda wildcards: CONFIG.experiment(wildcards.figure).model_dump_json(),
    shell:
        "python -m lofit experiment {wildcards.figure:q} > {log:q} 2>&1"


rule page:
    input:
        results=f"{RESULTS}/results.parquet",
        shown=drawn(),
        rest=all_reports(),
    output:
        report(f"{RESULTS}/report.html", category="Report", caption="../report/page.rst"),
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        configuration=short_hash(CONFIG.model_dump(mode="json", exclude={"data_mirror"})),
    shell:
        "python -m lofit report > {log:q} 2>&1"
