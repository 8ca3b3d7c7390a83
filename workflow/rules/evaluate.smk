"""Scoring with lm-evaluation-harness."""


rule evaluate:
    input:
        unpack(evaluate_inputs),
    output:
        scores=f"{RESULTS}/runs/{RUN}/eval/{{task}}/results.json",
        samples=f"{RESULTS}/runs/{RUN}/eval/{{task}}/samples.jsonl",
    log:
        f"{RESULTS}/logs/evaluate/{RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{RUN}.tsv"
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
        "python -m lofit evaluate --run {params.run:q} --threads {threads} > {log:q} 2>&1"
