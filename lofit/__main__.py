"""``python -m lofit``: in a server of the workflow if it has one, else here."""

import os
import sys
import time

from lofit.cluster.watchdog import end_on_interrupt
from lofit.node_server.client import run_in_server
from lofit.progress import STARTED

os.environ[STARTED] = str(time.monotonic())
end_on_interrupt()

if (status := run_in_server(sys.argv[1:])) is not None:
    sys.exit(status)

from lofit.cli import main  # noqa: E402  # takes seconds, which a server spares

main()
