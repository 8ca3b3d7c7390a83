"""Training adapters, and choosing among them."""

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
    wildcard_constraints:
        method=any_of(node.label for node in TABLE.fits.values() if node.id not in TABLE.tuned),
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory(fit_node),
        runtime=minutes(fit_node),
        gpu=gpus,
    params:
        run=run_id,
    shell:
        "python -m lofit fit --run {params.run:q} --threads {threads} > {log:q} 2>&1"


rule choose:
    input:
        unpack(choose_inputs),
    output:
        adapter=directory(f"{RESULTS}/runs/{RUN}/adapter"),
        report=f"{RESULTS}/runs/{RUN}/fit.json",
    log:
        f"{RESULTS}/logs/choose/{RUN}.log",
    wildcard_constraints:
        method=any_of(node.label for node in TABLE.tuned.values()) or "none",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        run=run_id,
    shell:
        "python -m lofit choose --run {params.run:q} > {log:q} 2>&1"
