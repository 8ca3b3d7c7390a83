"""Training adapters."""

RUN = "{model}/{task}/fold{fold}/seed{seed}/{method}-{hash}"


rule fit:
    input:
        unpack(fit_inputs),
    output:
        adapter=directory(f"{RESULTS}/runs/{RUN}/adapter"),
        report=f"{RESULTS}/runs/{RUN}/fit.json",
    log:
        f"{RESULTS}/logs/fit/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit/{RUN}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        mem_mb=model_mb,
        runtime=240,
        gpu=gpus,
    params:
        run=run_id,
    shell:
        "python -m lofit fit --run {params.run:q} --threads {threads} > {log:q} 2>&1"
