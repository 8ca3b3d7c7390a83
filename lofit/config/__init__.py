"""The configuration: its keys, checks and JSON schema. The keys are defined in this package only."""

from lofit.config.form import NAME, Config, LimitsConfig, TaskConfig
from lofit.config.load import load_config, parse_config
from lofit.config.schema import json_schema

__all__ = [
    "NAME",
    "Config",
    "LimitsConfig",
    "TaskConfig",
    "json_schema",
    "load_config",
    "parse_config",
]
