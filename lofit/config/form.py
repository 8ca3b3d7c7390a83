"""The keys of a configuration, with their types and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt

from lofit import localizers, tasks
from lofit.experiments import ArmConfig, ExperimentConfig, resolved
from lofit.sources.catalog import ModelEntry, load_catalog
from lofit.spec.base import Form, HeadCount, HeadsConfig, InputPath, MethodConfig, OwnFolder, Seed, SharedParams
from lofit.spec.hyperparameters import ComputeParams
from lofit.spec.precision import DTYPES, Dtype
from lofit.spec.protocol import PACKED, PAPER, Backend, Protocol, in_chat
from lofit.tasks.custom.table import Description
from lofit.tasks.task import Task

EVERY_HEAD = "all"
"""The localizer that ranks nothing."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""Pattern for names that become part of a file name."""


class TaskConfig(Form):
    """One task: which folds, its options, and where it is if it does not come with the package."""

    path: InputPath | None = Field(
        default=None,
        description="for a custom task: a folder of JSON lines; a CSV, TSV, Parquet, JSON or JSON lines file; or a "
        "YAML file with the keys of `read`",
    )
    read: Description | None = Field(default=None, description="what the columns of a custom task's file mean")
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
        description="1e9 bytes that its process allocates: of the host's memory on CPU, of each GPU's there; null: any",
    )


class JudgesConfig(Form):
    """Models that read a model's own answers, under the protocol ``open``."""

    truth: str = Field(default="truth-judge", description="says whether an answer is true")
    info: str = Field(default="info-judge", description="says whether an answer is informative")


class TransferConfig(Form):
    """The transfer experiment: offsets for each task on heads selected on every task."""

    method: str = Field(default="lofit", description="the method that is fitted")
    k: HeadCount = 0.10
    tasks: list[str] | None = Field(default=None, min_length=1, description="null: all configured tasks")
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, description="of the configured seeds; null: all of them"
    )
    random_row: StrictBool = Field(
        default=False, description="also offsets on as many random heads, as the last row of the heat map"
    )


class Config(Form):
    """A whole run of the suite."""

    models: list[str] = Field(min_length=1, description="names from the catalogue or from model_sources")
    model_sources: dict[Annotated[str, Field(pattern=NAME)], ModelEntry] = Field(
        default={}, description="custom models"
    )
    tasks: dict[Annotated[str, Field(pattern=NAME)], TaskConfig | None] = Field(
        min_length=1, description="the package's (docs/tasks.md), or custom ones with a `path`"
    )
    methods: dict[str, MethodConfig | None] = Field(min_length=1, description="what is compared (docs/methods.md)")
    shared_params: list[SharedParams] = Field(
        default=[],
        description="hyperparameters of all methods and localizers that have them, for instance of a common budget; "
        "they override the recipes, and are overridden by `params`",
    )
    heads_multiple: StrictInt = Field(
        default=1,
        ge=1,
        description="shares of heads are rounded to a multiple of this; numbers of heads in the LoFiT paper are 16 to "
        "160, the multiples of 16 that are closest to 3% and 10%",
    )
    seeds: list[Seed] = Field(
        default=[42], min_length=1, description="of the draw of training rows, and of training; one run for each"
    )
    protocols: list[Protocol] = Field(
        default=[PAPER],
        min_length=1,
        description="how a method is scored on its own task; each has tables of its own. With -chat, prompts are "
        "messages that the chat template words, in training, activations and scoring alike",
    )
    system: str | None = Field(
        default=None, min_length=1, description="message of the system, under protocols with -chat"
    )
    judges: JudgesConfig | None = Field(
        default=None, description="for the protocol open; null: answers are compared with reference answers only"
    )
    retention: dict[Annotated[str, Field(pattern=NAME)], TaskConfig | None] = Field(
        default={},
        description="tasks that fitted methods are also scored on, to see what fitting them for another cost",
    )
    suite: list[str] | None = Field(
        default=None, min_length=1, description="tasks whose differences to base and to full are averaged; null: all"
    )
    search_points: int | None = Field(
        default=None,
        ge=2,
        description="settings that every searched method tries, drawn at random from larger grids; null: whole grids",
    )
    lr_grid: list[Annotated[float, Field(ge=1e-6, le=1e6)]] | None = Field(
        default=[0.3, 1, 3, 10],
        min_length=2,
        description="learning rates that every trained method chooses from, unless it has a `search` or its `params` "
        "an `lr`, as multiples of its recipe's (or `shared_params`'), ascending; while the best is the lowest or the "
        "highest, others beyond it are tried, six at most; null: each method trains at its recipe's "
        "(docs/experiments.md)",
    )
    search_seeds: Literal["first", "each"] = Field(
        default="first",
        description="seeds that searches are made with; first: the other seeds take what was chosen with the first one",
    )
    select_by: Literal["metric", "loss"] = Field(
        default="metric",
        description="what searches, and methods such as iti among their strengths, choose by on the validation rows: "
        "the task's headline metric, with ties by the loss; or the loss alone",
    )
    transfer: TransferConfig | None = Field(
        default=None, description="the heat map of heads across tasks; `{}` for its defaults"
    )
    experiments: dict[Annotated[str, Field(pattern=NAME)], ExperimentConfig | None] = Field(
        default={}, description="the package's (docs/experiments.md), or your own; runs they share exist once"
    )
    plugins: list[InputPath] = Field(
        default=[], description="folders with further methods, localizers and tasks (docs/extending.md)"
    )
    data_mirror: InputPath | None = Field(
        default=None, description="folder with local copies of downloads (docs/usage.md)"
    )
    reuse: list[InputPath] = Field(
        default=[], description="stores, or results folders, from which nodes are taken that they hold (docs/usage.md)"
    )
    results: OwnFolder = Field(default=Path("results"), description="folder of everything that is computed")
    resources: OwnFolder = Field(
        default=Path("resources"), description="folder of models and data, which configurations can share"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="auto: the GPU of the machine that reads the configuration, the CPU if it has none; write cuda "
        "for jobs submitted from such a machine",
    )
    dtype: Dtype = Field(
        default="auto",
        description="of the frozen base; auto: float32 on CPU, bfloat16 on GPU; int8, nf4: quantised by bitsandbytes",
    )
    model_dtypes: dict[str, Dtype] = Field(default={}, description="of single models, by name, instead of `dtype`")
    backend: Backend = Field(
        default=PACKED,
        description="model class for scoring: packed, lm-eval's hf, or lm-eval's vllm on exported checkpoints (GPU)",
    )
    training: ComputeParams = Field(
        default=ComputeParams(), description="how training is computed (docs/architecture.md); results stay the same"
    )
    limits: LimitsConfig = Field(
        default=LimitsConfig(), description="of one node (docs/failures.md); changing them reruns nothing"
    )
    threads: int = Field(default=2, ge=1, le=4096, description="CPU threads of a node that runs the model")
    node_server: StrictBool = Field(
        default=True,
        description="nodes are forked from a process that has read the model (docs/architecture.md); same bits",
    )
    eval_batch_size: int = Field(default=16, ge=1, description="prompts in one forward pass")
    progress: StrictBool = Field(default=True, description="progress bars (only ever shown on a terminal)")

    def model_entry(self, name: str) -> ModelEntry:
        """Return the source and size of a configured model."""
        return self.model_sources.get(name) or load_catalog()[name]

    @property
    def chat(self) -> dict[str, Any] | None:
        """The ``system`` message of the chat that every prompt is part of; None if there is no chat."""
        return {"system": self.system} if in_chat(self.protocols[0]) else None

    @property
    def all_models(self) -> list[str]:
        """The models that are compared and the models that judge open answers, each once."""
        return list(dict.fromkeys([*self.models, *self.judging.values()]))

    @property
    def judging(self) -> dict[str, str]:
        """The models that judge open answers, by the configuration key that names each."""
        return {f"judges.{name}": model for name, model in self.judges.model_dump().items()} if self.judges else {}

    def experiment(self, name: str) -> ExperimentConfig:
        """Return a configured experiment; keys that the configuration omits come from the experiment of that name.

        Configured hyperparameters of a method hold for its arms too. On planted heads, every localizer is an arm,
        beside those that are given.
        """
        spec = resolved(name, self.experiments[name])
        arms = {label: self._with_params(arm) for label, arm in (spec.arms or {}).items()}
        spec = spec.model_copy(update={"arms": arms or None})
        if spec.kind != "planted":
            return spec
        ranking = {
            found: self._with_params(ArmConfig(method="lofit", heads=HeadsConfig(localizer=found)))
            for found in localizers.localizer_names()
            if found != EVERY_HEAD
        }
        return spec.model_copy(update={"arms": ranking | arms})

    def _with_params(self, arm: ArmConfig) -> ArmConfig:
        """An arm with the configured hyperparameters of its method, which its own override."""
        method = self.methods.get(arm.method)
        return arm.model_copy(update={"params": (method.params if method else {}) | arm.params})

    def task(self, name: str) -> Task:
        """Return a task as its options have it, given its name under ``tasks`` or ``retention``."""
        entry = self.tasks.get(name) or self.retention.get(name) or TaskConfig()
        task = tasks.load_task(name, entry.path, entry.read)
        return task.Options.model_validate(entry.options).configured(task)

    def head_count(self, model: str, k: float) -> int:
        """Return the number of heads that ``k`` stands for: ``k`` if it is an integer, else that share, rounded.

        The share is of all heads of the model, and is rounded to a multiple of ``heads_multiple``, which is the least
        result. The whole is all heads, and no share is more.
        """
        entry, step = self.model_entry(model), self.heads_multiple
        total = entry.n_layers * entry.n_heads
        if isinstance(k, int):
            return k
        return total if k == 1 else min(total, step * max(1, round(k * total / step)))

    @property
    def dtypes(self) -> list[str]:
        """All configured precisions."""
        return [self.dtype, *self.model_dtypes.values()]

    def dtype_of(self, model: str) -> str:
        """Return the precision of a configured model."""
        dtype = self.model_dtypes.get(model, self.dtype)
        return dtype if dtype != "auto" else DTYPES[self.device]
