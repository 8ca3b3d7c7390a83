"""Found by every Python of the workflow under test: notes each execution of a node, and has some fail or hang once.

``LOFIT_TEST_FAULTS`` is a folder. An execution appends a line to ``executions`` in it. A file there whose name ends in
``.fail`` or ``.hang`` holds a verb and a part of a run's id; the first such node takes the file away and does so.
"""

import os
import sys
import time
from pathlib import Path

if "LOFIT_TEST_FAULTS" in os.environ and sys.orig_argv[1:3] == ["-m", "lofit"]:
    folder, command = Path(os.environ["LOFIT_TEST_FAULTS"]), " ".join(sys.orig_argv[3:])
    fault = ""
    for file in sorted([*folder.glob("*.fail"), *folder.glob("*.hang")]):
        try:
            verb, part = file.read_text().split("\n")
            if command.startswith((f"{verb} ", f"node {verb} ")) and part in command:
                file.rename(file.with_name(f"{file.name}.taken"))
                fault = file.suffix
                break
        except FileNotFoundError:
            continue  # another node was faster
    with (folder / "executions").open("a") as log:
        log.write(f"{os.environ.get('SLURM_JOB_ID', '-')}\t{command}\n")
    if fault == ".hang":
        time.sleep(600)
    if fault:
        os._exit(1)
