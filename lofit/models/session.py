"""A loaded model with its tokenizer and the rows of one split: what localizers and methods work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lofit.files import read_jsonl, require
from lofit.models.chat import in_chat
from lofit.models.damage import Planted
from lofit.models.loading import load_model, load_tokenizer, pick_device, pick_dtype, vocabulary_of
from lofit.spec.hyperparameters import ComputeParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Metric = Callable[[Any, Any], float]
ObjectiveName = Literal["sft", "dpo", "bipo", "kl"]


@dataclass
class Session:
    """The inputs of a node that trains.

    Attributes:
        model: frozen base model in evaluation mode.
        tokenizer: its fast tokenizer.
        objective: ``sft`` (answer tokens), ``dpo`` or ``bipo`` (preference pairs) or ``kl`` (the intact model's
            predictions of answer tokens, for a damaged model).
        train, validation: rows with the training fields of the objective.
        seed: seed of initialisation and batch order.
        progress: whether to show progress bars (on a terminal only).
        compute: how training is computed.
        save_to: file for the save points of training; None: none are written.
        metric: ``(model, tokenizer) -> float``, the headline metric of the task on the validation rows, in [0, 1];
            None: it is not computed.
        planted: the damage that the model carries. Its texts are then not ended by end-of-sequence, which the intact
            model has not written.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    objective: ObjectiveName
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    seed: int
    progress: bool = True
    compute: ComputeParams = field(default_factory=ComputeParams)
    save_to: Path | None = None
    metric: Metric | None = None
    planted: Planted | None = None

    @property
    def window(self) -> int | None:
        """Most tokens that the model reads; None if its configuration does not say."""
        found: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found

    @property
    def vocabulary(self) -> int:
        """Number of rows of the model's embedding; token ids must be smaller."""
        return vocabulary_of(self.model)


def open_session(
    model_dir: Path,
    data_dir: Path,
    objective: ObjectiveName,
    *,
    seed: int,
    device: str = "cpu",
    dtype: str = "auto",
    progress: bool = True,
    compute: ComputeParams | None = None,
    save_to: Path | None = None,
    chat: Mapping[str, Any] | None = None,
) -> Session:
    """Load model, tokenizer and the training and validation rows of one split.

    ``chat`` has the ``system`` message if prompts are messages of a chat (:func:`lofit.models.chat.in_chat`).

    Raises:
        LofitError: the model or the split is missing, or cannot be loaded.
    """
    target = pick_device(device)
    rows = {
        split: read_jsonl(require(data_dir / f"{split}.jsonl", f"node prepare {'/'.join(data_dir.parts[-3:])}"))
        for split in ("train", "validation")
    }
    require(model_dir / "config.json", f"node fetch {model_dir.name}")
    tokenizer = load_tokenizer(model_dir)
    if chat:
        rows = {split: in_chat(given, tokenizer, **chat) for split, given in rows.items()}
    return Session(
        model=load_model(model_dir, target, pick_dtype(dtype, target)),
        tokenizer=tokenizer,
        objective=objective,
        train=rows["train"],
        validation=rows["validation"],
        seed=seed,
        progress=progress,
        compute=compute or ComputeParams(),
        save_to=save_to,
    )
