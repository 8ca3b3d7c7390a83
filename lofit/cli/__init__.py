"""The command line: commands for people, and hidden ones that the workflow calls."""

from lofit.cli import people, store, study, workflow  # they register their commands
from lofit.cli.app import DEFAULT, main, read_table

__all__ = ["DEFAULT", "main", "people", "read_table", "store", "study", "workflow"]
