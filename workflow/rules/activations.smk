"""Reading heads and layers at the end of right and wrong answers."""

ACTIVATIONS = "{model}/{task}/fold{fold}/seed{seed}-{hash}"


rule activations:
    input:
        unpack(activations_inputs),
    output:
        expand(f"{RESULTS}/activations/{ACTIVATIONS}/{{file}}", file=ACTIVATION_FILES, allow_missing=True),
    log:
        f"{RESULTS}/logs/activations/{ACTIVATIONS}.log",
    benchmark:
        f"{RESULTS}/benchmarks/activations/{ACTIVATIONS}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory(activations_node),
        runtime=minutes(activations_node),
        gpu=gpus,
    params:
        run=activations_id,
    shell:
        "python -m lofit activations --run {params.run:q} --threads {threads} > {log:q} 2>&1"
