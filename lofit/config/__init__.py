"""The configuration: its form, its checks and its schema. The only place that knows its keys."""

from lofit.config.form import LOCALIZERS, METHODS, NAME, Config, LimitsConfig, TaskConfig
from lofit.config.load import load_config, parse_config
from lofit.config.schema import json_schema

__all__ = [
    "LOCALIZERS",
    "METHODS",
    "NAME",
    "Config",
    "LimitsConfig",
    "TaskConfig",
    "json_schema",
    "load_config",
    "parse_config",
]
