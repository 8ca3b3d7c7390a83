"""A loaded model with its tokenizer and one split's data: what localizers and fits work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lofit.errors import SourceError
from lofit.files import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is float32 on CPU (bf16 is far slower there) and bfloat16 on GPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load a decoder-only model from a local folder, frozen and in evaluation mode (no dropout).

    Raises:
        SourceError: the folder holds no loadable model.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder}: no loadable causal language model ({str(error).splitlines()[0]})") from None
    model.requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]  # the decorated method's types are lost
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer: answer spans are located by character offsets, which slow ones lack.

    Raises:
        SourceError: there is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder}: no loadable tokenizer ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast:
        raise SourceError(f"{folder}: the tokenizer gives no character offsets; use a model with a fast tokenizer")
    return tokenizer


@dataclass
class Session:
    """What a node that trains works with.

    Attributes:
        model: frozen base model in evaluation mode.
        tokenizer: its fast tokenizer.
        objective: ``sft`` (answer tokens) or ``dpo`` (preference pairs).
        train, validation: rows with the training fields of the objective.
        seed: seed of initialisation and batch order.
        progress: whether to show bars (only ever on a terminal).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    objective: Literal["sft", "dpo"]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    seed: int
    progress: bool = field(default=True)


def open_session(
    model_dir: Path,
    data_dir: Path,
    objective: Literal["sft", "dpo"],
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "auto",
    progress: bool = True,
) -> Session:
    """Load model, tokenizer and the training and validation rows of one split."""
    target = pick_device(device)
    return Session(
        model=load_model(model_dir, target, pick_dtype(dtype, target)),
        tokenizer=load_tokenizer(model_dir),
        objective=objective,
        train=read_jsonl(data_dir / "train.jsonl"),
        validation=read_jsonl(data_dir / "validation.jsonl"),
        seed=seed,
        progress=progress,
    )
