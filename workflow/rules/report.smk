"""One table of all scores; each table and figure, from the scores that it is made of alone; and a page of all."""


def shown(output_id, suffix, kind):
    """The file of an output that is in Snakemake's report."""
    labels = {kind: "{" + kind + "}"}
    category = f"{kind.capitalize()}s"
    return report(f"{RESULTS}/{output_id}.{suffix}", category=category, labels=labels, caption=f"../report/{kind}.rst")


def needed(kind):
    """Function of wildcards: what a table or figure is made of."""
    return lambda wildcards: [str(path) for path in OUTPUTS[f"{kind}s/{wildcards[kind]}"].needs]


def triggers(kind):
    """Function of wildcards: what else makes a table or figure anew."""
    return lambda wildcards: OUTPUTS[f"{kind}s/{wildcards[kind]}"].triggers


def names(kind):
    """Names of all tables, or of all figures."""
    return any_of(output.name for output in OUTPUTS.values() if output.kind == kind)


def gathered(part):
    """Scores of a part of the run table."""
    return [
        str(results_path(TABLE, part)),
        str(results_path(TABLE, part).with_suffix(".csv")),
        str(items_path(TABLE, part)),
    ]


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
        mem_mb=light_mb,
        runtime=light_minutes,
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
