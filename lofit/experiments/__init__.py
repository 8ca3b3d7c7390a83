"""Named experiments: which runs each of them compares, and the table or figure that it writes."""

from lofit.experiments.experiment import TABLES, ArmConfig, ExperimentConfig, Kind, builtin_names, resolved

__all__ = ["TABLES", "ArmConfig", "ExperimentConfig", "Kind", "builtin_names", "resolved"]
