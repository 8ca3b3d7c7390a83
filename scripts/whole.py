#!/usr/bin/env python3
"""Make sure that no half-installed package is taken for an installed one (``make setup``).

An installer that was cut off can leave a package's record beside only some of its files. What is not wholly there
loses its record, so that it is installed again.
"""

from __future__ import annotations

import csv
import shutil
import sysconfig
from pathlib import Path


def whole(record: Path) -> bool:
    """Whether every file that a ``.dist-info`` folder names is there in its size; bytecode may be missing."""
    try:
        rows = [row for row in csv.reader((record / "RECORD").read_text(encoding="utf-8").splitlines()) if row]
        files = [(record.parent / name, size) for name, _, size in rows if not name.endswith(".pyc")]
    except (OSError, ValueError, csv.Error):
        return False
    return bool(files) and all(path.is_file() and size in ("", str(path.stat().st_size)) for path, size in files)


def main() -> None:
    """Look at what is installed in this interpreter's own folder."""
    for record in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
        if not whole(record):
            shutil.rmtree(record)


if __name__ == "__main__":
    main()
