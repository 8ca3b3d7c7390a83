"""Models and data, from wherever the configuration says."""


rule model:
    input:
        model_inputs,
    output:
        f"{RESOURCES}/models/{{model}}-{{hash}}/source.json",
    log:
        f"{RESULTS}/logs/model/{{model}}-{{hash}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/model/{{model}}-{{hash}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: fetching_mb(CONFIG, wildcards.model, attempt),
        runtime=lambda wildcards, attempt: fetching_minutes(CONFIG, wildcards.model, attempt),
    params:
        # what it takes to run the model (billions, gpus) is no part of it
        entry=lambda wildcards: CONFIG.model_entry(wildcards.model).model_dump_json(exclude={"billions", "gpus"}),
        files=model_state,
    shell:
        "python -m lofit model {wildcards.model:q} > {log:q} 2>&1"


rule prepare:
    input:
        prepare_inputs,
    output:
        train=f"{RESOURCES}/tasks/{{task}}/fold{{fold}}/seed{{seed}}-{{hash}}/train.jsonl",
        validation=f"{RESOURCES}/tasks/{{task}}/fold{{fold}}/seed{{seed}}-{{hash}}/validation.jsonl",
        test=f"{RESOURCES}/tasks/{{task}}/fold{{fold}}/seed{{seed}}-{{hash}}/test.jsonl",
        manifest=f"{RESOURCES}/tasks/{{task}}/fold{{fold}}/seed{{seed}}-{{hash}}/manifest.json",
    log:
        f"{RESULTS}/logs/prepare/{{task}}/fold{{fold}}/seed{{seed}}-{{hash}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare/{{task}}/fold{{fold}}/seed{{seed}}-{{hash}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=light_mb,
        runtime=light_minutes,
    params:
        run=data_id,
    shell:
        "python -m lofit prepare --run {params.run:q} > {log:q} 2>&1"
