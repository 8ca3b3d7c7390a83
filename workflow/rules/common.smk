"""The configuration, its run table, and the environment that nodes run in."""

import os
import re
import string
import sys
from itertools import takewhile
from pathlib import Path

from snakemake.utils import validate

CHECKOUT = [workflow.basedir] if Path(workflow.basedir, "lofit").is_dir() else []  # otherwise lofit is installed
sys.path[:0] = CHECKOUT

from lofit.cluster.watchdog import VARIABLE as SNAKEMAKE
from lofit.config import load_config, parse_config
from lofit.config.results import snapshot_path, write_snapshot
from lofit.errors import ConfigError, error_lines
from lofit.files import short_hash
from lofit.node_server.client import VARIABLE as NODE_SERVER
from lofit.node_server.client import sweep
from lofit.plan.kinds import FIT, KINDS, LOCALIZE, SELECT_BEST
from lofit.plan.resources import LIGHT_MB, LIGHT_MINUTES, gpus, memory_mb, runtime_minutes
from lofit.plan.table import ALL, RunTable
from lofit.report.outputs import outputs
from lofit.report.paths import items_path, part_inputs, results_path
from lofit.strict_yaml import read_yaml


def job_nodes():
    """Nodes that this Snakemake was started for, as a cluster job; ``workflow`` tells only later."""
    words = iter(sys.argv)
    if "--target-jobs" not in words:  # which takes all words up to it
        return []
    return list(takewhile(lambda word: not word.startswith("-"), words))


SNAPSHOT = "LOFIT_CONFIG"
CONFIGFILES = [Path(file) for file in workflow.overwrite_configfiles or ["config.yaml"]]
try:
    if job_nodes() and SNAPSHOT in os.environ:
        # A job's own Snakemake must know the ids of the one that submitted it, on a machine with other devices, and
        # after a change of the file.
        CONFIG = load_config(Path(os.environ[SNAPSHOT]))
    else:
        for file in CONFIGFILES:
            read_yaml(file, ConfigError)  # Snakemake has read it already, and keeps the last of several equal keys
        CONFIG = parse_config(config, str(CONFIGFILES[0]), Path(CONFIGFILES[0]))
    TABLE = RunTable(CONFIG)
    OUTPUTS = {output.id: output for output in outputs(TABLE)}
except ConfigError as error:
    sys.exit(error_lines(error))
validate(CONFIG.model_dump(mode="json"), "../schemas/config.schema.yaml", set_default=False)
RESULTS = str(CONFIG.results)

# Every node is `python -m lofit node <kind> <id>` in this environment; it reads the configuration from a snapshot, and
# ends when this process does. A file of the study must not take the place of a library's module of the same name.
os.environ.update(
    {SNAKEMAKE: str(os.getpid()), SNAPSHOT: str(snapshot_path(CONFIG))},
    LOFIT_REUSE=os.pathsep.join(str(store.absolute()) for store in CONFIG.reuse),
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [*CHECKOUT, os.environ.get("PYTHONPATH")])),
    PYTHONSAFEPATH="1",
)
# A cluster job of a single node would share nothing, and some clusters count shared memory once for each process.
if CONFIG.node_server and len(job_nodes()) != 1:
    os.environ[NODE_SERVER] = str((CONFIG.results / "logs" / "servers").absolute())
else:
    os.environ.pop(NODE_SERVER, None)


def any_of(values):
    """Regular expression of a wildcard that takes one of ``values``."""
    return "|".join(sorted(re.escape(str(value)) for value in set(values))) or "none"


def light_mb(wildcards, attempt):
    """Memory of what gathers or draws, in MB; more at each attempt."""
    return LIGHT_MB * attempt


def light_minutes(wildcards, attempt):
    """Time limit of what gathers or draws; more at each attempt."""
    return LIGHT_MINUTES * attempt


def for_output(amount, light):
    """Function of wildcards and attempt: what a table asks for; one that reads base models, as much as they take."""

    def asked(wildcards, attempt):
        loads = OUTPUTS[f"tables/{wildcards.table}"].loads
        return max([light(wildcards, attempt), *(amount(TABLE, node, attempt) for node in loads)])

    return asked


def all_outputs():
    """Everything a plain run makes. What nodes say of themselves is named too, so that a deleted one is made again."""
    drawn = [output.path(CONFIG.results) for output in OUTPUTS.values()]
    return [results_path(TABLE, ALL), f"{RESULTS}/report.html", *drawn, *all_reports()]


def all_reports():
    """What every node that runs a model says of itself, with adapters and rankings; arrays may be deleted."""
    whole = [
        path
        for kind in (LOCALIZE, FIT, SELECT_BEST)
        for node in kind.nodes(TABLE).values()
        for path in kind.outputs(TABLE, node)
    ]
    others = [kind for kind in KINDS if kind.runs_model and kind not in (LOCALIZE, FIT, SELECT_BEST)]
    return whole + [kind.report(TABLE, node) for kind in others for node in kind.nodes(TABLE).values()]


def shown(output_id, suffix, kind):
    """The file of an output that is in Snakemake's report."""
    labels = {kind: f"{{{kind}}}"}
    category = f"{kind.capitalize()}s"
    return report(f"{RESULTS}/{output_id}.{suffix}", category=category, labels=labels, caption=f"../report/{kind}.rst")


def needed(kind):
    """Function of wildcards: what a table or figure is made of."""
    return lambda wildcards: [str(path) for path in OUTPUTS[f"{kind}s/{wildcards[kind]}"].needs]


def triggers(kind):
    """Function of wildcards: what else makes a table or figure anew."""
    return lambda wildcards: OUTPUTS[f"{kind}s/{wildcards[kind]}"].triggers


def names(kind):
    """Names of all tables, or of all figures."""
    return any_of(output.name for output in OUTPUTS.values() if output.kind == kind)


def gathered(part):
    """Scores of a part of the run table."""
    return [
        str(results_path(TABLE, part)),
        str(results_path(TABLE, part).with_suffix(".csv")),
        str(items_path(TABLE, part)),
    ]
