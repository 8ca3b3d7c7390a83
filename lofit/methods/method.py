"""Definition of a method: its hyperparameters, what it needs, how it is fitted, and its entry in the documentation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from lofit.spec.precision import Quantized
from lofit.spec.protocol import OPEN, PACKED, PAPER, Backend, Protocol, in_chat, paper, scoring

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from peft import PeftConfig

    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


@dataclass(frozen=True)
class Method:
    """A way to adapt a model.

    Attributes:
        name: name in configurations and tables.
        summary: one line for documentation.
        source: paper or repository that the method is from.
        Params: pydantic model of its hyperparameters.
        learns: what is learned or estimated, and where it acts.
        parameters: formula for the number of stored values, with L layers, H heads per layer, D hidden size, d head
            dimension, K selected heads.
        deviations: differences from the source, or from its published code.
        trains_base: whether it trains the weights of the base model, which then cannot be quantized.
        foldable: whether a fitted model can be written as a plain checkpoint.
        localizer: the localizer that ranks its heads unless the configuration names another; None if it edits no
            selected heads.
        chooses_k: whether the configured numbers of heads are a grid to choose from on validation; if not, each number
            is a separate run.
        grid: hyperparameters that are lists of values to choose from on validation.
        uses_activations: whether it is estimated from the activations of right and wrong answers.
        seeded: whether its result depends on the run's seed.
        shots: ``params -> number`` of training examples in front of every test prompt under the protocol ``paper``;
            None: no examples.
        tasks: the only tasks for which it is defined; None: all tasks.
        scorer: ``(params, **kwargs of HFLM) -> HFLM``, for methods that compute scores in a different way.
        fit: ``(context, params) -> Fitted``; None for a method that changes nothing.
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

    @property
    def chooses(self) -> bool:
        """Whether it chooses among settings on validation itself."""
        return self.chooses_k or bool(self.grid)

    def skip(
        self, tasks: Collection[str], protocols: Sequence[Protocol], dtypes: Collection[str], backend: Backend
    ) -> str | None:
        """Return why the method cannot be run in a configuration, and what to change; None if it can be run.

        Args:
            tasks: configured tasks.
            protocols: configured protocols.
            dtypes: configured precisions of the base models.
            backend: configured model class for scoring.
        """
        if self.tasks and not set(tasks) & set(self.tasks):
            return f"defined for {', '.join(self.tasks)} only; add that task, or remove the method"
        if self.trains_base and (quantized := set(dtypes) & set(get_args(Quantized))):
            return f"quantised weights cannot be trained; remove it, or set dtype to auto (now {quantized.pop()})"
        if not any(map(self.scored_under, protocols)):
            chat = in_chat(protocols[0])
            remedy = "remove it" if chat and self.scorer else f"add {paper(chat)} to protocols"
            return f"not scored under {' or '.join(protocols)} (docs/methods.md); {remedy}"
        if backend != PACKED and self.scorer:
            return f"uses a custom scorer; remove it, or set backend to {PACKED}"
        return None

    def scored_under(self, protocol: Protocol) -> bool:
        """Whether the method is scored under a protocol.

        Few-shot examples are added to prompts of ``paper`` only, and a scorer takes no prompts of ``open`` nor of a
        chat.
        """
        if self.scorer and (in_chat(protocol) or scoring(protocol) == OPEN):
            return False
        return scoring(protocol) == PAPER or not self.shots


def trains(adapter: Callable[[Any, FitContext], PeftConfig]) -> Callable[[FitContext, Any], Fitted]:
    """Return the ``fit`` of a method that trains a PEFT adapter by gradient.

    Args:
        adapter: ``(params, context) -> PeftConfig``, the configuration of the adapter to train.
    """

    def fit(context: FitContext, params: Any) -> Fitted:
        from lofit.training.trainer import train

        return train(context.session, adapter(params, context), params, context.title)

    return fit
