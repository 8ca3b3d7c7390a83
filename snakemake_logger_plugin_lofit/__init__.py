"""One line per node while the workflow runs: `snakemake --logger lofit`. Snakemake finds such plugins by their name."""

from lofit.cli.node_lines import LogHandler

__all__ = ["LogHandler"]
