"""One rule for each kind of node (lofit/plan/kinds.py)."""


def node_of(kind):
    """Function of wildcards: the node that a path belongs to."""
    return lambda wildcards: TABLE.find(kind.nodes(TABLE), kind.node.PATTERN.format(**wildcards))


def inputs_of(kind):
    """Function of wildcards: what a node reads."""

    def inputs(wildcards):
        found = kind.inputs(TABLE, node_of(kind)(wildcards))
        return {name: [str(path) for path in paths] for name, paths in found.items()}

    return inputs


def outputs_of(kind):
    """What nodes of a kind write, with wildcards; an adapter is a folder."""
    where, below = kind.node.FOLDER
    paths = [f"{getattr(CONFIG, where)}/{below}/{kind.node.PATTERN}/{file}" for file in kind.files]
    return [path if Path(path).suffix else directory(path) for path in paths]


def constraints_of(kind):
    """Values that the wildcards of a kind take; hashes of any nodes, so that an unknown one is told as such."""
    names = [name for _, name, _, _ in string.Formatter().parse(kind.node.PATTERN) if name]
    nodes = kind.nodes(TABLE).values()
    return {
        name: "[0-9a-f]{8}" if name.endswith("hash") else any_of(node.wildcards[name] for node in nodes)
        for name in names
    }


def triggers_of(kind):
    """Function of wildcards: what else makes a node run again."""
    return lambda wildcards: kind.triggers(TABLE, node_of(kind)(wildcards))


def resource(amount, kind):
    """Function of wildcards and attempt: what a node asks for."""
    return lambda wildcards, attempt: amount(TABLE, node_of(kind)(wildcards), attempt)


def gpus_of(kind):
    """Function of wildcards: how many GPUs a node runs on."""
    return lambda wildcards: gpus(TABLE, node_of(kind)(wildcards))


def one_machine(kind):
    """Function of wildcards: 1 for several GPUs, which SLURM would otherwise also collect from several machines."""
    return lambda wildcards: 1 if gpus_of(kind)(wildcards) > 1 else None


for kind in KINDS:

    rule:
        name:
            kind.name
        input:
            unpack(inputs_of(kind)),
        output:
            outputs_of(kind),
        log:
            str(kind.log(TABLE, kind.node.PATTERN)),
        benchmark:
            f"{RESULTS}/benchmarks/{kind.name}/{kind.node.PATTERN}.tsv"
        wildcard_constraints:
            **constraints_of(kind),
        conda:
            "../../environment.yml"
        threads: CONFIG.threads if kind.runs_model else 1
        resources:
            mem_mb=resource(memory_mb, kind),
            runtime=resource(runtime_minutes, kind),
            gpu=gpus_of(kind),
            nodes=one_machine(kind),
        params:
            kind=kind.name,
            run=kind.node.PATTERN,
            triggers=triggers_of(kind),
        shell:
            "python -m lofit node {params.kind} {params.run:q} --threads {threads} > {log:q} 2>&1"
