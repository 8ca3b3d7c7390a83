"""Models and data, from wherever the configuration says."""


rule model:
    output:
        f"{RESOURCES}/models/{{model}}/source.json",
    log:
        f"{RESULTS}/logs/model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/model/{{model}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=model_mb,
        runtime=120,
    params:
        source=lambda wildcards: CONFIG.model_entry(wildcards.model).source.model_dump_json(),
    shell:
        "python -m lofit model {wildcards.model} > {log} 2>&1"


rule prepare:
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
        mem_mb=2000,
        runtime=60,
    params:
        run=data_id,
        mirror=str(CONFIG.data_mirror),
    shell:
        "python -m lofit prepare --run {params.run} > {log} 2>&1"
