"""What a method is: its hyperparameters, what it needs, how it is fitted, and what documentation says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from lofit.spec.protocol import OPEN, PAPER, Protocol

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from peft import PeftConfig

    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


@dataclass(frozen=True)
class Method:
    """One way to adapt the model.

    Attributes:
        name: name in configurations and tables.
        summary: one line for documentation.
        source: paper or repository the method is from.
        Params: pydantic model of its hyperparameters.
        learns: what is learned or estimated, and where it acts.
        parameters: formula of the number of values stored, in L layers, H heads per layer, D hidden size, d head
            dimension, K heads selected.
        deviations: where this differs from the source, or from its published code.
        trains_base: whether it trains the weights of the base model, which cannot be quantized then.
        foldable: whether a fitted model can be written as a plain checkpoint.
        localizer: the localizer whose heads it edits unless the configuration names another; None if it edits no
            selected heads.
        chooses_k: whether the configured numbers of heads are a grid to choose from on validation; otherwise each is
            a run of its own.
        grid: hyperparameters that are lists of values to choose from on validation.
        uses_activations: whether it is estimated from the activations of right and wrong answers.
        seeded: whether its result depends on the run's seed.
        shots: ``params -> number`` of training examples put in front of every test prompt of our own; None: none are.
        tasks: the only tasks it is defined for; None: all.
        scorer: ``(params, **kwargs of HFLM) -> HFLM``, for methods that need a way of scoring of their own.
        fit: ``(fit_context, params) -> Fitted``. None for a method that changes nothing.
    """

    name: str
    summary: str
    source: str
    Params: type[BaseModel]
    learns: str
    parameters: str
    deviations: str = "none known"
    trains_base: bool = False
    foldable: bool = True
    localizer: str | None = None
    chooses_k: bool = False
    grid: tuple[str, ...] = ()
    uses_activations: bool = False
    seeded: bool = True
    shots: Callable[[Any], int] | None = None
    tasks: tuple[str, ...] | None = None
    scorer: Callable[..., HFLM] | None = None
    fit: Callable[[FitContext, Any], Fitted] | None = None

    def scored_under(self, protocol: Protocol) -> bool:
        """Whether the method is scored under a protocol.

        Examples are put in front of our own prompts alone; a scorer reads given answers, of which ``open`` has none.
        """
        return protocol == PAPER or not (self.shots or (protocol == OPEN and self.scorer))


def trains(adapter: Callable[[Any, FitContext], PeftConfig]) -> Callable[[FitContext, Any], Fitted]:
    """The ``fit`` of a method that trains a PEFT adapter by gradient.

    Args:
        adapter: ``(params, context) -> PeftConfig`` of the adapter to train.
    """

    def fit(context: FitContext, params: Any) -> Fitted:
        from lofit.training.trainer import train

        return train(context.session, adapter(params, context), params, context.title)

    return fit
