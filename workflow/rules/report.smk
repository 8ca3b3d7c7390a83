"""One table of all scores; each table and figure, from the scores that it is made of alone; and a page of all."""


rule collect:
    input:
        unpack(lambda wildcards: part_inputs(TABLE, ALL)),
    output:
        gathered(ALL),
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
        unpack(lambda wildcards: part_inputs(TABLE, wildcards.part)),
    output:
        gathered("{part}"),
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


rule table:
    input:
        needed("table"),
    output:
        shown("tables/{table}", "csv", "table"),
        f"{RESULTS}/tables/{{table}}.md",
        f"{RESULTS}/tables/{{table}}.tex",
    log:
        f"{RESULTS}/logs/tables/{{table}}.log",
    wildcard_constraints:
        table=names("table"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=for_output(memory_mb, light_mb),
        runtime=for_output(runtime_minutes, light_minutes),
    params:
        triggers=triggers("table"),
    shell:
        "python -m lofit render tables/{wildcards.table:q} > {log:q} 2>&1"


rule figure:
    input:
        needed("figure"),
    output:
        shown("figures/{figure}", "png", "figure"),
        f"{RESULTS}/figures/{{figure}}.pdf",
        f"{RESULTS}/figures/{{figure}}.csv",
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    wildcard_constraints:
        figure=names("figure"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        triggers=triggers("figure"),
    shell:
        "python -m lofit render figures/{wildcards.figure:q} > {log:q} 2>&1"


rule page:
    input:
        results=results_path(TABLE, ALL),
        shown=[output.path(CONFIG.results) for output in OUTPUTS.values()],
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
        "python -m lofit render report > {log:q} 2>&1"
