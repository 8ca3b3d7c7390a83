"""The run table, wildcards, and what the rules look up in it."""

import json
import os
import re
import sys
from itertools import takewhile
from pathlib import Path

from snakemake.utils import validate

sys.path.insert(0, workflow.basedir)

from lofit.cluster.watchdog import VARIABLE as SNAKEMAKE
from lofit.activations.names import FILES as ACTIVATION_FILES
from lofit.config import parse_config
from lofit.config.results import snapshot_path, write_snapshot
from lofit.errors import ConfigError, SourceError
from lofit.spec.protocol import HARNESS, OPEN, table_name
from lofit.plan.published import matching_runs
from lofit.files import short_hash
from lofit.plan.ranking_pairs import compares_tasks
from lofit.methods import load_method
from lofit.node_server.client import VARIABLE as NODE_SERVER
from lofit.node_server.client import sweep
from lofit.report.outputs import outputs
from lofit.plan.resources import LIGHT_MB, LIGHT_MINUTES, fetching_mb, fetching_minutes, memory_mb, runtime_minutes
from lofit.plan.nodes import ActivationsNode
from lofit.plan.table import RunTable
from lofit.sources.models import model_files, state
from lofit.strict_yaml import read_yaml


def job_nodes():
    """Nodes that this Snakemake was started for, as a cluster job; ``workflow`` tells only later."""
    words = iter(sys.argv)
    if "--target-jobs" not in words:  # which takes all words up to it
        return []
    return list(takewhile(lambda word: not word.startswith("-"), words))


DEVICE = "LOFIT_DEVICE"  # what `device: auto` came to where the workflow was started
CONFIGFILES = [Path(file) for file in workflow.overwrite_configfiles or ["config.yaml"]]
try:
    for file in CONFIGFILES:
        read_yaml(file, ConfigError)  # Snakemake has read it already, and keeps the last of several equal keys
    if config.get("device", "auto") == "auto":  # a job's own Snakemake, on whatever machine, must know the same ids
        config["device"] = os.environ.get(DEVICE, "auto")
    CONFIG = parse_config(config, origin=str(CONFIGFILES[0]))
    TABLE = RunTable(CONFIG)
    COUNTERPARTS = matching_runs(TABLE)
except ConfigError as error:
    sys.exit(f"error: {error}")
validate(CONFIG.model_dump(mode="json"), "../schemas/config.schema.yaml", set_default=False)
MAIN_TABLES = [table_name(protocol) for protocol in CONFIG.protocols]
RESULTS, RESOURCES = str(CONFIG.results), str(CONFIG.resources)

# Every node is `python -m lofit <verb> --run <id>` in this environment; it reads the configuration from a snapshot, and
# ends when this process does.
os.environ.update(
    {SNAKEMAKE: str(os.getpid()), DEVICE: CONFIG.device},
    LOFIT_CONFIG=str(snapshot_path(CONFIG)),
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")])),
)
# A cluster job of a single node would share nothing, and some clusters count shared memory once for each process.
if CONFIG.node_server and len(job_nodes()) != 1:
    os.environ[NODE_SERVER] = str((CONFIG.results / "logs" / "servers").absolute())
else:
    os.environ.pop(NODE_SERVER, None)


def any_of(values):
    """Regular expression of a wildcard that takes one of ``values``."""
    return "|".join(sorted(re.escape(str(value)) for value in set(values)))


wildcard_constraints:
    model=any_of(CONFIG.all_models),
    task=any_of([*CONFIG.tasks, *CONFIG.retention]),
    fold=r"\d+",
    seed=r"\d+",
    localizer=any_of(node.localizer for node in TABLE.localize.values()) or "none",
    method=any_of(node.label for node in TABLE.fits.values()),
    hash=r"[0-9a-f]{8}",
    protocol=any_of(node.protocol for node in TABLE.evaluations.values()),
    eval_task=any_of([*CONFIG.tasks, *CONFIG.retention]),
    eval_fold=r"\d+",
    eval_hash=r"[0-9a-f]{8}",


def experiments(*kinds):
    """Names of the experiments of some kinds."""
    return [name for name in CONFIG.experiments if CONFIG.experiment(name).kind in kinds]


def data_id(wildcards):
    """Id of the data node a path belongs to."""
    return f"{wildcards.task}/fold{wildcards.fold}/seed{wildcards.seed}-{wildcards.hash}"


def ranking_id(wildcards):
    """Id of the localize node a path belongs to."""
    return f"{wildcards.model}/{wildcards.task}/fold{wildcards.fold}/seed{wildcards.seed}/{wildcards.localizer}-{wildcards.hash}"


def run_id(wildcards):
    """Id of the fit node a path belongs to."""
    return f"{wildcards.model}/{wildcards.task}/fold{wildcards.fold}/seed{wildcards.seed}/{wildcards.method}-{wildcards.hash}"


def activations_id(wildcards):
    """Id of the activations node a path belongs to."""
    return f"{wildcards.model}/{wildcards.task}/fold{wildcards.fold}/seed{wildcards.seed}-{wildcards.hash}"


def activations_node(wildcards):
    """The activations node a path belongs to."""
    return TABLE.find(TABLE.activations, activations_id(wildcards))


def ranking_node(wildcards):
    """The localize node a path belongs to."""
    return TABLE.find(TABLE.localize, ranking_id(wildcards))


def fit_node(wildcards):
    """The fit node a path belongs to."""
    return TABLE.find(TABLE.fits, run_id(wildcards))


def evaluation_node(wildcards):
    """The evaluate node a path belongs to."""
    w = wildcards
    return TABLE.find(TABLE.evaluations, f"{run_id(w)}/eval/{w.protocol}/{w.eval_task}/fold{w.eval_fold}-{w.eval_hash}")


def model_file(model):
    """The file that says a model is there."""
    return str(TABLE.model_dir(model) / "source.json")


def model_inputs(wildcards):
    """All files of a model that is a folder of this machine."""
    source = CONFIG.model_entry(wildcards.model).source
    if source.kind != "local":
        return []
    try:
        return [str(file) for file in model_files(source.path)]
    except SourceError:  # `lofit model` says what is wrong with it
        return [str(source.path / "config.json")]


def model_state(wildcards):
    """What shows that one of those files was replaced, also by an older one."""
    source = CONFIG.model_entry(wildcards.model).source
    try:
        return state(source.path) if source.kind == "local" else None
    except SourceError:
        return None


def data_files(node, *splits):
    """Files of some splits of a data node."""
    return [str(TABLE.data_dir(node) / f"{split}.jsonl") for split in splits]


def training_inputs(node):
    """Model and training data of a node, and the activations it reads."""
    inputs = {"model": model_file(node.model), "data": data_files(node.data, "train", "validation")}
    if not isinstance(node, ActivationsNode) and (activations := TABLE.activations_of(node)):
        inputs["activations"] = activations_files(activations)
    return inputs


def activations_inputs(wildcards):
    """What an activations node reads."""
    return training_inputs(activations_node(wildcards))


def localize_inputs(wildcards):
    """What a localize node reads."""
    return training_inputs(ranking_node(wildcards))


def fit_inputs(wildcards):
    """What a fit node reads."""
    node = fit_node(wildcards)
    inputs = training_inputs(node)
    if node.ranking:
        inputs["heads"] = ranking_files(node.ranking)
    return inputs


def choose_inputs(wildcards):
    """What a choose node reads: every candidate, and what ranking its heads took."""
    candidates = TABLE.find(TABLE.tuned, run_id(wildcards)).candidates
    rankings = {node.ranking.id: node.ranking for node in candidates if node.ranking}.values()
    return {
        "fits": [path for node in candidates for path in fit_files(node)],
        "rankings": [path for node in rankings for path in ranking_files(node)],
    }


def evaluate_inputs(wildcards):
    """Model, test data, adapter and examples of an evaluate node."""
    node = evaluation_node(wildcards)
    method = load_method(node.fit.method)
    inputs = {"model": model_file(node.fit.model), "data": data_files(node.data, "test")}
    if method.fit:
        inputs["fit"] = fit_files(node.fit)
    if node.protocol == OPEN and CONFIG.judges:
        inputs["judges"] = [model_file(CONFIG.judges.truth), model_file(CONFIG.judges.info)]
    if node.protocol == HARNESS or method.shots:
        inputs["examples"] = data_files(node.data, "train")
    return inputs


def prepare_inputs(wildcards):
    """The user's own files of a task."""
    return [str(file) for file in CONFIG.task(wildcards.task).files]


def activations_files(node):
    """What an activations node writes."""
    return [str(TABLE.activations_dir(node) / name) for name in ACTIVATION_FILES]


def ranking_files(node):
    """What a localize node writes."""
    return [str(TABLE.localize_dir(node) / name) for name in ("heads.parquet", "localize.json")]


def fit_files(node):
    """What a fit node writes."""
    return [str(TABLE.run_dir(node) / name) for name in ("adapter", "fit.json")]


def all_fits():
    """Adapters and reports of all trained nodes."""
    return [path for node in TABLE.fits.values() if load_method(node.method).fit for path in fit_files(node)]


def all_rankings():
    """All rankings."""
    return [path for node in TABLE.localize.values() for path in ranking_files(node)]


def part_inputs(part):
    """What the scores of a part of the run table are gathered from."""
    evaluations = TABLE.part(part).values()
    fits = {node.fit.id: node.fit for node in evaluations}.values()
    rankings = {fit.ranking.id: fit.ranking for fit in fits if fit.ranking}.values()
    activations = {node.id: node for user in [*fits, *rankings] if (node := TABLE.activations_of(user))}.values()
    data = {node.id: node for entry in evaluations for node in (entry.data, entry.fit.data)}.values()
    return {
        "scores": [str(TABLE.eval_dir(node) / "results.json") for node in evaluations],
        "fits": [path for fit in fits if load_method(fit.method).fit for path in fit_files(fit)],
        "rankings": [path for node in rankings for path in ranking_files(node)],
        "activations": [str(TABLE.activations_dir(node) / "activations.json") for node in activations],
        "data": [str(TABLE.data_dir(node) / name) for node in data for name in ("manifest.json", "test.jsonl")],
    }


def collected(part):
    """Gathered scores of a part of the run table."""
    return [f"{RESULTS}/collected/{part}/{name}" for name in ("results.parquet", "items.parquet")]


def expected_inputs(wildcards):
    """Gathered scores of the parts that published values have counterparts in."""
    return [path for part in sorted({row.artefact for row, _ in COUNTERPARTS}) for path in collected(part)]


def figure_inputs(wildcards):
    """What a figure of an experiment is drawn from: rankings alone, or scores."""
    if CONFIG.experiment(wildcards.figure).kind != "layers":
        return collected(wildcards.figure)
    rankings = {arm.fit.ranking.id: arm.fit.ranking for arm in TABLE.experiments[wildcards.figure]}
    return [path for node in rankings.values() for path in ranking_files(node)]


def table_outputs(name):
    """Files of a table; the CSV is in Snakemake's report."""
    shown = report(
        f"{RESULTS}/tables/{name}.csv", category="Tables", labels={"table": name}, caption="../report/table.rst"
    )
    return [shown, *(f"{RESULTS}/tables/{name}.{form}" for form in ("md", "tex"))]


def figure_outputs(name):
    """Files of a figure; the PNG is in Snakemake's report."""
    shown = report(
        f"{RESULTS}/figures/{name}.png", category="Figures", labels={"figure": name}, caption="../report/figure.rst"
    )
    return [shown, *(f"{RESULTS}/figures/{name}.{form}" for form in ("pdf", "csv"))]


def all_reports():
    """What every node that runs a model says of itself."""
    scores = [str(TABLE.eval_dir(node) / "results.json") for node in TABLE.evaluations.values()]
    activations = [str(TABLE.activations_dir(node) / "activations.json") for node in TABLE.activations.values()]
    return [*scores, *activations, *all_fits(), *all_rankings()]


def drawn():
    """Every table and figure, in the form that a person opens first."""
    return [str(output.path(CONFIG.results)) for output in outputs(TABLE)]


def all_outputs():
    """Everything a plain run makes. What nodes say of themselves is named too, so that a deleted one is made again."""
    return [f"{RESULTS}/results.parquet", f"{RESULTS}/report.html", *drawn(), *all_reports()]


def memory(node_of):
    """Memory of a node that runs a model, in MB; more at each attempt."""
    return lambda wildcards, attempt: memory_mb(TABLE, node_of(wildcards), attempt)


def minutes(node_of):
    """Time limit of a node that runs a model; more at each attempt."""
    return lambda wildcards, attempt: runtime_minutes(TABLE, node_of(wildcards), attempt)


def light_mb(wildcards, attempt):
    """Memory of a node that runs no model, in MB; more at each attempt."""
    return LIGHT_MB * attempt


def light_minutes(wildcards, attempt):
    """Time limit of a node that runs no model; more at each attempt."""
    return LIGHT_MINUTES * attempt


def gpus(wildcards):
    """GPUs that the node's model is spread over, where the configuration asks for GPUs."""
    return CONFIG.model_entry(wildcards.model).gpus if CONFIG.device == "cuda" else 0
