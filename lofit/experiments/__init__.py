"""Named experiments: which runs each compares, and what is written of them."""

from lofit.experiments.experiment import TABLES, ArmConfig, ExperimentConfig, Kind, builtin_names, resolved

__all__ = ["TABLES", "ArmConfig", "ExperimentConfig", "Kind", "builtin_names", "resolved"]
