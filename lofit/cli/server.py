"""``python -m lofit.cli.server <address>``: serves the command line to the nodes of a workflow."""

import os
import sys
from pathlib import Path

from lofit.cli import DEFAULT, main, read_table
from lofit.node_server.client import sweep
from lofit.node_server.server import serve


def preload(model: str) -> None:
    """Read a model of the configuration, in its precision, into the memory of this process."""
    from lofit.models import loading

    table = read_table(Path(os.environ.get("LOFIT_CONFIG", DEFAULT)))
    if table.config.model_entry(model).gpus == 1:  # otherwise every node spreads it as it is read
        loading.preload(table.model_dir(model), table.config.dtype_of(model), table.config.device)


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]), main, preload)
    finally:
        sweep()
