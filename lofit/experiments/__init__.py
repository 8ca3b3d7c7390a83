"""Named experiments: which runs each of them compares, and the table or figure that it writes."""

from lofit.experiments.experiment import (
    TABLES,
    UNSCORED,
    ArmConfig,
    DamageConfig,
    ExperimentConfig,
    Kind,
    PlantedConfig,
    builtin_names,
    resolved,
)

__all__ = [
    "TABLES",
    "UNSCORED",
    "ArmConfig",
    "DamageConfig",
    "ExperimentConfig",
    "Kind",
    "PlantedConfig",
    "builtin_names",
    "resolved",
]
