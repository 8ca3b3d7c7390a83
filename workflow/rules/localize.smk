"""Ranking attention heads."""

RANKING = "{model}/{task}/fold{fold}/seed{seed}/{localizer}-{hash}"


rule localize:
    input:
        unpack(localize_inputs),
    output:
        heads=f"{RESULTS}/localize/{RANKING}/heads.parquet",
        report=f"{RESULTS}/localize/{RANKING}/localize.json",
    log:
        f"{RESULTS}/logs/localize/{RANKING}.log",
    benchmark:
        f"{RESULTS}/benchmarks/localize/{RANKING}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory(ranking_node),
        runtime=minutes(ranking_node),
        gpu=gpus,
    params:
        run=ranking_id,
    shell:
        "python -m lofit localize --run {params.run:q} --threads {threads} > {log:q} 2>&1"
