"""The configuration: its form, its checks and its schema. The only place that knows its keys."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, StrictBool, StrictInt, ValidationError

from lofit import grid, localize, methods, registry, tasks
from lofit.errors import ConfigError, TaskError
from lofit.evaluate.protocol import OPEN, OURS, PAPER, VLLM, Backend, Protocol, table_name
from lofit.experiments import ArmConfig, ExperimentConfig, builtin_names, resolved
from lofit.fit.params import ComputeParams
from lofit.forms import Form, HeadCount, HeadsConfig, MethodConfig, SearchConfig, Seed
from lofit.recipes import resolve
from lofit.sources.catalog import ModelEntry, load_catalog
from lofit.strict_yaml import read_yaml
from lofit.tasks.base import Task

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""Of what becomes part of a file name."""


class TaskConfig(Form):
    """One task: which folds, its options, and where it is if it does not come with the package."""

    path: Path | None = Field(
        default=None, description="folder of JSON lines, or YAML file naming them, for a task of your own"
    )
    folds: list[StrictInt] | None = Field(default=None, min_length=1, description="null: all folds of the task")
    options: dict[str, Any] = Field(
        default={}, description="sizes (n_train, n_validation, n_test) and the task's own options"
    )


class LimitsConfig(Form):
    """What one node that runs a model may take; one that needs more is a failed run in the tables."""

    minutes: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="of wall time, loading the model included; null: any"
    )
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="1e9 bytes that its process allocates: of the host's memory on CPU, the GPU's on GPU; null: any",
    )


class JudgesConfig(Form):
    """Models that read a model's own answers, under the protocol ``open``."""

    truth: str = Field(default="truth-judge", description="says whether an answer is true")
    info: str = Field(default="info-judge", description="says whether an answer is informative")


class TransferConfig(Form):
    """The transfer experiment: offsets for each task on heads selected on every task."""

    method: str = "lofit"
    k: HeadCount = 0.10
    tasks: list[str] | None = Field(default=None, min_length=1, description="null: all configured tasks")


class Config(Form):
    """A whole run of the suite."""

    models: list[str] = Field(min_length=1, description="names from the catalogue or from model_sources")
    model_sources: dict[Annotated[str, Field(pattern=NAME)], ModelEntry] = Field(
        default={}, description="models of your own"
    )
    tasks: dict[Annotated[str, Field(pattern=NAME)], TaskConfig | None] = Field(min_length=1)
    methods: dict[str, MethodConfig | None] = Field(min_length=1)
    seeds: list[Seed] = Field(default=[42], min_length=1)
    protocols: list[Protocol] = Field(
        default=[PAPER], min_length=1, description="how a method is scored on its own task; each has tables of its own"
    )
    judges: JudgesConfig | None = Field(
        default=None, description="for the protocol open; null: answers are compared with reference answers only"
    )
    retention: dict[Annotated[str, Field(pattern=NAME)], TaskConfig | None] = Field(
        default={}, description="tasks that every method is also scored on, to see what fitting it for another cost"
    )
    suite: list[str] | None = Field(
        default=None, min_length=1, description="tasks whose differences to base and to full are averaged; null: all"
    )
    search_points: int | None = Field(
        default=None,
        ge=2,
        description="settings that every searched method tries, drawn at random from larger grids; null: whole grids",
    )
    transfer: TransferConfig | None = None
    experiments: dict[Annotated[str, Field(pattern=NAME)], ExperimentConfig | None] = Field(
        default={}, description="the package's (docs/experiments.md), or your own; runs they share exist once"
    )
    data_mirror: Path | None = Field(default=None, description="folder that stands in for the network")
    results: Path = Path("results")
    resources: Path = Path("resources")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "int8", "nf4"] = Field(
        default="auto",
        description="of the frozen base; auto: float32 on CPU, bfloat16 on GPU; int8, nf4: quantised by bitsandbytes",
    )
    backend: Backend = Field(
        default=OURS,
        description="what scores: ours, lm-eval's hf, or lm-eval's vllm on exported checkpoints (GPU)",
    )
    training: ComputeParams = Field(default=ComputeParams(), description="how training is computed; not what")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="of one node; a change of them reruns nothing")
    threads: int = Field(default=2, ge=1, le=4096, description="CPU threads of a node that runs the model")
    eval_batch_size: int = Field(default=16, ge=1)
    progress: StrictBool = Field(default=True, description="progress bars (only ever shown on a terminal)")

    def model_entry(self, name: str) -> ModelEntry:
        """Source and size of a configured model."""
        return self.model_sources.get(name) or load_catalog()[name]

    @property
    def all_models(self) -> list[str]:
        """The models that are compared, and those that judge."""
        return list(dict.fromkeys([*self.models, *(model for _, model in _judges(self))]))

    def experiment(self, name: str) -> ExperimentConfig:
        """A configured experiment, with what the package says where the configuration says nothing."""
        return resolved(name, self.experiments[name])

    def task(self, name: str) -> Task:
        """A configured task."""
        entry = self.tasks.get(name) or self.retention.get(name)
        return tasks.load_task(name, entry.path if entry else None)

    def head_count(self, model: str, k: float) -> int:
        """Number of heads meant by ``k``: itself if an integer, else the rounded share of the model's heads."""
        entry = self.model_entry(model)
        return k if isinstance(k, int) else max(1, round(k * entry.n_layers * entry.n_heads))


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: one line naming file, key and remedy.
    """
    return parse_config(read_yaml(path, ConfigError), origin=str(path))


def parse_config(raw: Any, origin: str = "config") -> Config:
    """Check a configuration given as a mapping; ``origin`` names it in errors.

    Raises:
        ConfigError: one line naming file, key and remedy.
    """
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{origin}: expected a mapping of keys such as models, tasks, methods; found {type(raw).__name__}"
        )
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_one_line(error, Config)}") from None
    for problem in _problems(config):
        raise ConfigError(f"{origin}: {problem}")
    return config


def _one_line(error: ValidationError, form: type[BaseModel], prefix: str = "") -> str:
    """The first problem pydantic found, as ``key: problem; remedy``."""
    first = error.errors(include_url=False)[0]
    places = zip(("", *first["loc"]), first["loc"], strict=False)
    location = [str(part) for before, part in places if before != "source" or part not in ("hub", "local", "pypi_gguf")]
    if len(location) > 1 and location[-1] in ("int", "float") and first["type"] != "extra_forbidden":
        location.pop()  # which of the two a number could not be
    key = ".".join([prefix.rstrip("."), *location] if prefix else location)
    if first["type"] == "extra_forbidden":
        return f"{key}: {registry.unknown('key', location[-1], _form_at(form, location[:-1]).model_fields)}"
    if first["type"] == "missing":
        return f"{key}: this key is required; add it"
    if first["type"] == "too_short":
        return f"{key}: empty; give at least {first['ctx']['min_length']} entry"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key}: {message}; found {_SHORT.repr(first['input'])}"


_SHORT = reprlib.Repr()
"""For values in messages: a wrong one may be huge."""
_SHORT.maxstring = _SHORT.maxother = 80


def _form_at(form: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """The model of the part of a configuration at ``location``; names in mappings and places in lists are passed."""
    for part in location:
        if part in form.model_fields:
            form = next(_forms_in(form.model_fields[part].annotation), form)
    return form


def _forms_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models named anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _forms_in(argument)


def _problems(config: Config) -> Any:
    """Everything the form alone cannot tell: names, sizes, and hyperparameters of methods and tasks."""
    catalog = {**load_catalog(), **config.model_sources}
    for field in ("models", "seeds", "protocols"):
        if repeated := _repeated(getattr(config, field)):
            yield f"{field}: '{repeated}' stands twice; remove one"
    for key, model in [*(("models", model) for model in config.models), *_judges(config)]:
        if model not in catalog:
            yield f"{key}: {registry.unknown('model', model, catalog)} (or define it under model_sources)"
    yield from _task_problems(config)
    yield from _method_problems(config)
    yield from _experiment_problems(config)
    yield from _budget_problems(config)
    if config.transfer:
        yield from _transfer_problems(config, config.transfer)
    if config.backend != OURS:
        yield from _backend_problems(config)


def _backend_problems(config: Config) -> Any:
    """Of a backend that only knows models and requests."""
    for name in config.retention:
        if config.task(name).plain_text:
            yield f"retention.{name}: plain text is scored by backend {OURS} alone; remove it, or set that"
    if config.backend == VLLM and config.dtype in ("int8", "nf4"):
        yield f"backend: checkpoints for vllm are not quantised; set dtype to auto (now {config.dtype})"


def _judges(config: Config) -> Iterator[tuple[str, str]]:
    if config.judges:
        yield from (("judges.truth", config.judges.truth), ("judges.info", config.judges.info))


def _repeated(values: list[Any]) -> Any:
    return next((value for i, value in enumerate(values) if value in values[:i]), None)


def _task_problems(config: Config) -> Any:
    for name, entry in config.tasks.items():
        yield from _one_task_problems(f"tasks.{name}", name, entry or TaskConfig(), to_train=True)
    for name, entry in config.retention.items():
        yield from _one_task_problems(f"retention.{name}", name, entry or TaskConfig(), to_train=False)
        if name in config.tasks and (entry or TaskConfig()).path != (config.tasks[name] or TaskConfig()).path:
            yield f"retention.{name}.path: not that of tasks.{name}; give one of them another name"
    known = [name for name, entry in config.tasks.items() if name in tasks.task_names() or (entry and entry.path)]
    if OPEN in config.protocols and not any(config.task(name).open_definition for name in known):
        yield "protocols: none of the tasks has open answers; add truthfulqa, or remove 'open'"
    if config.judges and OPEN not in config.protocols:
        yield "judges: they read open answers only; add 'open' to protocols, or remove the key"
    for name in config.tasks:
        if name not in known:
            continue
        if not any(config.task(name).headline_under(protocol) for protocol in config.protocols):
            yield f"protocols: {name} is scored under 'paper' only; add it, or remove the task"
    for key in ("suite", "retention"):
        if getattr(config, key) and "base" not in config.methods:
            yield f"{key}: differences are taken to the base model; add 'base' to methods, or remove the key"
    for name in config.suite or []:
        if name not in config.tasks:
            yield f"suite: {registry.unknown('task', name, config.tasks)}"


def _one_task_problems(key: str, name: str, entry: TaskConfig, *, to_train: bool) -> Any:
    if entry.path and name in tasks.task_names():
        yield f"{key}.path: '{name}' is a task of the package; give yours another name"
        return
    if not entry.path and name not in tasks.task_names():
        yield f"{key.split('.')[0]}: {registry.unknown('task', name, tasks.task_names())} (or give its path)"
        return
    try:
        task = tasks.load_task(name, entry.path)
    except TaskError as error:
        yield f"{key}.path: {error}"
        return
    if to_train and not task.objective:
        yield f"{key}: for evaluation only; name it under retention"
    if entry.folds and (strange := sorted(set(entry.folds) - set(task.folds))):
        yield f"{key}.folds: no fold {strange[0]}; this task has {list(task.folds)}"
    if entry.folds and _repeated(entry.folds) is not None:
        yield f"{key}.folds: fold {_repeated(entry.folds)} stands twice; remove one"
    try:
        task.Options.model_validate(entry.options)
    except ValidationError as error:
        yield _one_line(error, task.Options, f"{key}.options")


def _method_problems(config: Config) -> Any:
    for name, given in config.methods.items():
        if name not in methods.method_names():
            yield f"methods: {registry.unknown('method', name, methods.method_names())}"
        else:
            yield from _one_method_problems(config, name, given or MethodConfig(), f"methods.{name}")


def _one_method_problems(config: Config, name: str, entry: MethodConfig, key: str) -> Any:
    method = methods.load_method(name)
    if method.tasks and not set(config.tasks) & set(method.tasks):
        yield f"{key}: defined for {', '.join(method.tasks)} only; add that task, or remove the method"
    if entry.heads and not method.localizer:
        yield f"{key}.heads: this method does not select heads; remove the key"
    if method.localizer:
        yield from _heads_problems(config, entry.heads or HeadsConfig(), method.localizer, f"{key}.heads")
    yield from _params_problems(config, method.Params, METHODS / name, entry.params, f"{key}.params")
    if entry.search:
        yield from _search_problems(config, name, entry, entry.search, f"{key}.search")
    if config.dtype in ("int8", "nf4") and name == "full":
        yield f"{key}: quantised weights cannot be trained; remove it, or set dtype to auto (now {config.dtype})"
    if config.backend != OURS and method.scorer:
        yield f"{key}: scores in a way of its own; remove it, or set backend to {OURS}"


def _search_problems(config: Config, name: str, entry: MethodConfig, searched: SearchConfig, key: str) -> Any:
    method = methods.load_method(name)
    if not method.fit or method.scorer:
        yield f"{key}: {name} has no fit to choose from by validation loss; remove the key"
        return
    if grid.size(searched) < (least := config.search_points or 2):
        yield f"{key}: {grid.size(searched)} settings to choose from, at least {least} are needed; give more values"
    if grid.size(searched) > grid.MAX_SIZE:
        yield f"{key}: {grid.size(searched)} settings, more than {grid.MAX_SIZE}; give fewer values"
        return
    if searched.k and (not method.localizer or method.chooses_k):
        yield f"{key}.k: {name} {'chooses from heads.k' if method.chooses_k else 'selects no heads'}; remove the key"
    if searched.localizer and not method.localizer:
        yield f"{key}.localizer: {name} selects no heads; remove the key"
    for axis in searched.axes:
        if axis.removeprefix("localizer.") in grid.UNSEARCHABLE:
            yield f"{key}.{axis}: settings cannot be compared by a loss that it changes; remove the key"
    for point, setting in grid.settings(entry, searched, None):
        where = ", ".join(f"{axis}={value}" for axis, value in point.items())
        for problem in _one_method_problems(config, name, setting, f"{key} ({where})"):
            yield problem
            return


def _budget_problems(config: Config) -> Any:
    """Every method that chooses on validation tries as many settings, once any is searched."""
    entries = [(f"methods.{name}", name, entry or MethodConfig()) for name, entry in config.methods.items()]
    for title in config.experiments:
        arms = (config.experiment(title).arms or {}).items()
        entries += [(f"experiments.{title}.arms.{label}", arm.method, arm) for label, arm in arms]
    if not any(entry.search for _, _, entry in entries):
        return
    tried = {key: _settings_tried(config, name, entry) for key, name, entry in entries}
    chosen = {key: count for key, count in tried.items() if count > 1}
    if len(set(chosen.values())) > 1:
        (most, n), (least, m) = (pick(chosen.items(), key=lambda item: item[1]) for pick in (max, min))
        yield f"{most}: tries {n} settings and {least} {m}; make them equal (search_points, or values to choose from)"


def _settings_tried(config: Config, name: str, entry: MethodConfig) -> int:
    """Settings of which the best on validation is kept, for the first model and task; 1 if nothing is chosen."""
    if entry.search:
        return min(grid.size(entry.search), config.search_points or math.inf)  # type: ignore[return-value]
    method = methods.load_method(name)
    params = resolve(METHODS / f"{name}.yaml", config.models[0], next(iter(config.tasks)), entry.params)
    heads = len((entry.heads or HeadsConfig()).k) if method.chooses_k else 1
    return heads * math.prod(len(params[axis]) for axis in method.grid)


def _experiment_problems(config: Config) -> Any:
    for name in config.experiments:
        key = f"experiments.{name}"
        spec = config.experiment(name)
        if name in ELSEWHERE and (spec.kind is None or name in RESERVED):
            yield f"{key}: {ELSEWHERE[name]}"
            continue
        if name in RESERVED:
            yield f"{key}: outputs of that name exist already; give it another name"
            continue
        if spec.kind is None:
            yield (
                f"{key}: not one of the package's ({', '.join(builtin_names())}); "
                "give its kind and arms, or correct the name"
            )
            continue
        if not spec.arms:
            yield f"{key}.arms: nothing to compare; give at least one"
            continue
        yield from _axis_problems(config, spec, key)
        yield from _variance_problems(config, spec, key)
        for task in spec.tasks or []:
            if task not in config.tasks:
                yield f"{key}.tasks: {registry.unknown('task', task, config.tasks)}"
        for label, arm in spec.arms.items():
            yield from _arm_problems(config, spec, arm, f"{key}.arms.{label}")


def _axis_problems(config: Config, spec: ExperimentConfig, key: str) -> Any:
    axes = [axis for axis in ("k", "n_train") if getattr(spec, axis)]
    if spec.kind == "curve" and len(axes) != 1:
        yield f"{key}: a curve runs over k or over n_train; give one of them"
    if spec.kind != "curve" and axes:
        yield f"{key}.{axes[0]}: only a curve runs over it; set kind to curve, or remove the key"
    for axis in axes:
        if repeated := _repeated(getattr(spec, axis)):
            yield f"{key}.{axis}: {repeated} stands twice; remove one"
    if spec.k:
        yield from _head_count_problems(config, spec.k, f"{key}.k")


def _variance_problems(config: Config, spec: ExperimentConfig, key: str) -> Any:
    if spec.kind != "variance":
        if spec.training_seeds:
            yield f"{key}.training_seeds: only an experiment of kind variance has them; remove the key"
        return
    for place, seeds in ((f"{key}.training_seeds", spec.training_seeds or config.seeds), ("seeds", config.seeds)):
        if len(set(seeds)) < 2:
            yield f"{place}: the spread over seeds needs two of them; give more"
        if repeated := _repeated(seeds):
            yield f"{place}: '{repeated}' stands twice; remove one"
    for label, arm in (spec.arms or {}).items():
        if arm.search:
            yield f"{key}.arms.{label}.search: one setting is run with all seeds; remove the key"
        if arm.method in methods.method_names() and not methods.load_method(arm.method).seeded:
            yield f"{key}.arms.{label}.method: {arm.method} does not depend on a seed; choose another"


def _arm_problems(config: Config, spec: ExperimentConfig, arm: ArmConfig, key: str) -> Any:
    if arm.method not in methods.method_names():
        yield f"{key}.method: {registry.unknown('method', arm.method, methods.method_names())}"
        return
    method = methods.load_method(arm.method)
    yield from _one_method_problems(config, arm.method, arm, key)
    if (spec.k or spec.kind == "layers") and not method.localizer:
        yield f"{key}.method: '{arm.method}' does not select heads; choose lofit"
    if spec.kind == "layers" and arm.search:
        yield f"{key}.search: this experiment shows one ranking; remove the key"
    searched_k = bool(arm.search and arm.search.k)
    if searched_k and spec.k:
        yield f"{key}.search.k: the curve runs over it; remove the key"
    several = len((arm.heads or HeadsConfig()).k) > 1 and not searched_k
    if method.localizer and not method.chooses_k and not spec.k and several:
        yield f"{key}.heads.k: an arm is one run per task and seed; give one number of heads"


def _heads_problems(config: Config, heads: HeadsConfig, default: str, key: str) -> Any:
    name, known = heads.localizer or default, localize.localizer_names()
    if name not in known:
        yield f"{key}.localizer: {registry.unknown('localizer', name, known)}"
        return
    if heads.task is not None and heads.task not in config.tasks:
        yield f"{key}.task: {registry.unknown('task', heads.task, config.tasks)}"
    form = localize.load_localizer(name).Params
    yield from _params_problems(config, form, LOCALIZERS / name, heads.params, f"{key}.params")
    yield from _head_count_problems(config, heads.k, f"{key}.k")


def _params_problems(config: Config, form: type[BaseModel], module: Path, overrides: dict[str, Any], key: str) -> Any:
    for model in config.models:
        for task in config.tasks:
            try:
                form.model_validate(resolve(module.with_suffix(".yaml"), model, task, overrides))
            except ValidationError as error:
                yield _one_line(error, form, key)


def _head_count_problems(config: Config, counts: list[int | float], key: str) -> Any:
    for k in counts:
        for model in config.models:
            entry = config.model_entry(model)
            total = entry.n_layers * entry.n_heads
            if (isinstance(k, int) and k > total) or (isinstance(k, float) and k > 1):
                yield (
                    f"{key}: {k} is more than the {total} heads of {model} "
                    f"({entry.n_layers} layers x {entry.n_heads}); give a smaller number, or a share between 0 and 1"
                )


def _transfer_problems(config: Config, transfer: TransferConfig) -> Any:
    if transfer.method not in config.methods:
        yield f"transfer.method: '{transfer.method}' is not among the configured methods; add it under methods"
    elif not (method := methods.load_method(transfer.method)).localizer or method.chooses_k:
        yield f"transfer.method: '{transfer.method}' does not edit a given number of selected heads; choose lofit"
    for task in transfer.tasks or []:
        if task not in config.tasks:
            yield f"transfer.tasks: {registry.unknown('task', task, config.tasks)}"
    yield from _head_count_problems(config, [transfer.k], "transfer.k")


RESERVED = (
    "all",
    *map(table_name, get_args(Protocol)),
    "suite",
    "retention",
    "overlap",
    "expected",
    "search",
    "transfer",
)
"""Results, tables and figures that are no experiment's."""
ELSEWHERE = {
    "transfer": "write it as `transfer:`, beside `experiments:`",
    "ood": "what fitting costs on other tasks is asked for by naming them under `retention:`, beside `experiments:`",
    "retention": "write it as `retention:`, beside `experiments:`, with tasks to be scored",
    "overlap": "always made where there are two rankings of heads; remove it",
    "search": "a `search:` belongs to a method or an arm; its table is made wherever there is one",
}
"""Questions that are no experiments, and how they are asked."""
METHODS = Path(methods.__file__).parent
LOCALIZERS = Path(localize.__file__).parent


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration, with the options of every task and the hyperparameters of every method."""
    schema = Config.model_json_schema()
    form = schema["properties"]
    form["tasks"] = _named(
        schema,
        form["tasks"],
        "TaskConfig",
        "options",
        {name: tasks.load_task(name).Options for name in tasks.task_names()},
    )
    form["methods"] = _named(
        schema,
        form["methods"],
        "MethodConfig",
        "params",
        {name: methods.load_method(name).Params for name in methods.method_names()},
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _named(
    schema: dict[str, Any], form: dict[str, Any], part: str, key: str, forms: dict[str, type[BaseModel]]
) -> dict[str, Any]:
    """Add to a free mapping one entry per known name, whose ``key`` has that name's own form.

    Other names stay allowed: a method or task that is added later needs no new schema, and an unknown name has been
    refused by then.
    """
    entries = {}
    for name, options in forms.items():
        definition = options.model_json_schema()
        definition.pop("required", None)  # the recipe fills them
        schema["$defs"].update(definition.pop("$defs", {}))
        body = {**schema["$defs"][part], "properties": {**schema["$defs"][part]["properties"], key: definition}}
        entries[name] = {"anyOf": [body, {"type": "null"}]}
    return {
        **form,
        "properties": entries,
    }
