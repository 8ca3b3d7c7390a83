"""``python -m lofit``: in a server of the workflow if it has one, else here."""

import sys

from lofit.node_server.client import run_in_server

if (status := run_in_server(sys.argv[1:])) is not None:
    sys.exit(status)

from lofit.cli import main  # takes seconds, which a server spares

main()
