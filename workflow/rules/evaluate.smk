"""Scoring with lm-evaluation-harness."""

EVALUATION = "eval/{protocol}/{eval_task}/fold{eval_fold}-{eval_hash}"


rule evaluate:
    input:
        unpack(evaluate_inputs),
    output:
        scores=f"{RESULTS}/runs/{RUN}/{EVALUATION}/results.json",
        samples=f"{RESULTS}/runs/{RUN}/{EVALUATION}/samples.jsonl",
    log:
        f"{RESULTS}/logs/evaluate/{RUN}/{EVALUATION}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{RUN}/{EVALUATION}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory(evaluation_node),
        runtime=minutes(evaluation_node),
        gpu=gpus,
    params:
        run=run_id,
        # of a task of one's own, whose file may have changed
        definition=lambda wildcards: json.dumps(dict(CONFIG.task(wildcards.eval_task).overrides)),
    shell:
        "python -m lofit evaluate --run {params.run:q} --on {wildcards.eval_task:q} --fold {wildcards.eval_fold} "
        "--protocol {wildcards.protocol} --threads {threads} > {log:q} 2>&1"
