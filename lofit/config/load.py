"""Read a configuration: validate keys and types first, then check everything that depends on several keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from lofit import methods, registry
from lofit.cluster.gpus import default_device
from lofit.config.experiments import experiment_problems, transfer_problems
from lofit.config.form import Config
from lofit.config.messages import all_lines, repeated
from lofit.config.methods import budget_problems, method_problems, shared_params_problems
from lofit.config.results import folder_problems, is_snapshot
from lofit.config.tasks import task_problems
from lofit.errors import ConfigError
from lofit.methods import method_names
from lofit.sources.catalog import load_catalog
from lofit.spec.precision import Quantized
from lofit.spec.protocol import PACKED, VLLM
from lofit.strict_yaml import read_yaml


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: one line naming file, key and remedy.
    """
    return parse_config(read_yaml(path, ConfigError), str(path), path)


def parse_config(raw: Any, origin: str = "config", file: Path | None = None) -> Config:
    """Check a configuration given as a mapping; ``origin`` names it in errors.

    What it reads is looked for beside its ``file`` first, then in the working folder; what it writes is in the latter.
    Of a copy that is kept with results, all paths are from the working folder.

    ``device: auto`` is replaced by the device of this machine. The precision follows from the device, and node ids
    depend on the precision, so one configuration never runs partly on CPU and partly on GPU.

    Raises:
        ConfigError: its problems, each in one line naming file, key and remedy.
    """
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{origin}: expected a mapping of keys such as models, tasks, methods; found {type(raw).__name__}"
        )
    registry.add_installed()
    try:
        config = Config.model_validate(raw, context={"folder": file.parent if file and not is_snapshot(file) else None})
    except ValidationError as error:
        raise ConfigError(*(f"{origin}: {line}" for line in all_lines(error, Config))) from None
    try:
        for folder in config.plugins:
            registry.add_plugins(folder)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    if config.device == "auto":
        config = config.model_copy(update={"device": default_device()})
    if found := list(dict.fromkeys(problems(config))):
        raise ConfigError(*(f"{origin}: {problem}" for problem in found))
    return config


def problems(config: Config) -> Iterator[str]:
    """Yield what the types alone cannot detect: wrong names, sizes, and hyperparameters of methods and tasks.

    Each check presupposes that the ones before it found nothing; those of names and of tasks are independent.
    """
    found = [*_name_problems(config), *task_problems(config)]
    yield from found
    for check in (method_problems, experiment_problems, shared_params_problems, budget_problems, _rest_problems):
        if found:
            return
        yield from (found := list(check(config)))


def _name_problems(config: Config) -> Iterator[str]:
    catalog = {**load_catalog(), **config.model_sources}
    for field in ("models", "seeds", "protocols"):
        if (twice := repeated(getattr(config, field))) is not None:
            yield f"{field}: '{twice}' is given twice; remove one"
    for key, model in [*(("models", model) for model in config.models), *config.judging.items()]:
        if model not in catalog:
            yield f"{key}: {registry.unknown('model', model, catalog)} (or define it under model_sources)"
    for model in config.model_dtypes:
        if model not in config.models:
            yield f"model_dtypes: {registry.unknown('model', model, config.models)}"
    for name in config.methods:
        if name not in method_names():
            yield f"methods: {registry.unknown_module('method', methods.__name__, name)}"
    for store in config.reuse:
        if not store.is_dir():
            yield f"reuse: {store} is not a folder; correct it or remove it"
    yield from folder_problems(config)


def _rest_problems(config: Config) -> Iterator[str]:
    if config.transfer:
        yield from transfer_problems(config, config.transfer)
    if config.backend != PACKED:
        yield from _backend_problems(config)


def _backend_problems(config: Config) -> Iterator[str]:
    """Yield what the configured backend, which is not the packed one, cannot do."""
    for name in config.retention:
        if config.task(name).plain_text:
            yield f"retention.{name}: plain text is scored by backend {PACKED} alone; remove it, or set that"
    for dtype in config.dtypes:
        if config.backend == VLLM and dtype in get_args(Quantized):
            yield f"backend: checkpoints for vllm are not quantised; set dtype to auto (now {dtype})"
