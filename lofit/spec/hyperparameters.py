"""Hyperparameters that methods and localizers share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class NoParams(BaseModel):
    """Hyperparameters of a method that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossParams(NoParams):
    """How the loss of a task is computed."""

    batch_size: int = Field(default=8, ge=1, description="examples (or preference pairs) in one batch")
    max_length: int = Field(default=512, ge=8, description="tokens of prompt and answer; what is longer fails the run")
    beta: float = Field(default=0.5, gt=0, description="DPO inverse temperature (DPO tasks only)")


class TrainParams(LossParams):
    """Hyperparameters of gradient training, shared by every trained method and localizer.

    Defaults are those of the authors' scripts (``fc2869/lo-fit`` at ``ebd344a``, scripts/): AdamW(0.9, 0.999, 1e-8),
    linear decay to zero without warm-up, gradient-norm clip 1.0, batch 8, 5 epochs, DPO beta 0.5.
    """

    lr: float = Field(gt=0, description="peak learning rate")
    epochs: int = Field(default=5, ge=1, description="passes over the training rows")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="norm to which gradients are clipped")
    l1: float = Field(default=0.0, ge=0, description="weight of the sum of absolute values of all trained parameters")


class FitParams(TrainParams):
    """Hyperparameters of gradient training of a method, whose result may be that of an earlier epoch."""

    keep: Literal["last", "best"] = Field(
        default="last",
        description="trained values that are the result: those after the last epoch, or after the epoch with the best "
        "headline metric on the validation rows (of several, the lowest validation loss)",
    )


class ComputeParams(NoParams):
    """How training is computed. It changes results by no more than rounding, but for masks of dropout."""

    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="examples (or preference pairs) in one pass, for each of which dropout draws its own masks; null: "
        "the whole batch at once",
    )
    prefix_memory_gb: float = Field(
        default=2, ge=0, description="memory for what enters the first trained layer, computed once for all epochs"
    )
    prefix_disk_gb: float = Field(default=20, ge=0, description="room for it on disk (TMPDIR) instead")
    checkpointing: bool = Field(default=False, description="compute activations twice instead of keeping them")
    save_minutes: float | None = Field(
        default=10, ge=0, description="between save points, from which a killed fit goes on; null: none are written"
    )
    validate_by: Literal["loss", "metric"] = Field(
        default="loss",
        description="what is computed on the validation rows before training and after every epoch; metric: the task's "
        "headline metric too, which takes longer; it is computed anyway after every epoch with keep: best, and at the "
        "end where a search chooses by it",
    )
    compile: bool = Field(default=False, description="torch.compile of the trained layers; pays in long fits only")
