"""A loaded model with its tokenizer and one split's data: what localizers and fits work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lofit.errors import ConfigError, SourceError
from lofit.files import need, read_json, read_jsonl
from lofit.fit.params import ComputeParams
from lofit.runs import DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: ``cuda`` is asked for and torch finds no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: cuda asked for, but torch {torch.__version__} finds no GPU; set device to cpu")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is float32 on CPU (bf16 is far slower there) and bfloat16 on GPU."""
    dtype: torch.dtype = getattr(torch, DTYPES[device.type] if name == "auto" else name)
    return dtype


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, source: Path | None = None) -> PreTrainedModel:
    """Load a decoder-only model from a local folder, frozen and in evaluation mode (no dropout).

    Args:
        folder: of the weights.
        device: where to.
        dtype: precision of the weights.
        source: folder that says where the model comes from, and so whether its code is trusted; None: ``folder``.

    Raises:
        SourceError: the folder holds no loadable model.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=_trusted(source or folder),
        )
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder}: no loadable causal language model ({str(error).splitlines()[0]})") from None
    # Of a checkpoint's habits of generation only the special tokens count: greedy must be greedy for every model.
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(**{name: getattr(model.generation_config, name, None) for name in names})
    model.requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]  # the decorated method's types are lost
    return model.eval()


def _trusted(folder: Path) -> bool:
    """Whether the model's configured source allows code that comes with the model."""
    record = folder / "source.json"
    return record.is_file() and bool(read_json(record)["source"].get("trust_remote_code", False))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer: answer spans are located by character offsets, which slow ones lack.

    Raises:
        SourceError: there is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=_trusted(folder))
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
        compute: how training is computed.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    objective: Literal["sft", "dpo"]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    seed: int
    progress: bool = True
    compute: ComputeParams = field(default_factory=ComputeParams)


def open_session(
    model_dir: Path,
    data_dir: Path,
    objective: Literal["sft", "dpo"],
    *,
    seed: int,
    device: str = "auto",
    dtype: str = "auto",
    progress: bool = True,
    compute: ComputeParams | None = None,
) -> Session:
    """Load model, tokenizer and the training and validation rows of one split.

    Raises:
        LofitError: the model or the split is not there, or cannot be loaded.
    """
    target = pick_device(device)
    rows = {
        split: read_jsonl(need(data_dir / f"{split}.jsonl", f"prepare --run {'/'.join(data_dir.parts[-3:])}"))
        for split in ("train", "validation")
    }
    need(model_dir / "config.json", f"model {model_dir.name}")
    return Session(
        model=load_model(model_dir, target, pick_dtype(dtype, target)),
        tokenizer=load_tokenizer(model_dir),
        objective=objective,
        train=rows["train"],
        validation=rows["validation"],
        seed=seed,
        progress=progress,
        compute=compute or ComputeParams(),
    )
