"""Load base models and tokenizers from a local folder, with a given precision and device."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch

from lofit.errors import ConfigError, FitError, SourceError, brief
from lofit.files import read_json
from lofit.models.encoding import check_ids
from lofit.models.memory import out_of_memory
from lofit.progress import seconds_since_start
from lofit.spec.precision import DTYPES, Quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Precision = torch.dtype | Quantized


def pick_device(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises:
        ConfigError: the device is ``cuda`` and torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device: cuda asked for, but torch {torch.__version__} finds no GPU on {platform.node()}; run it where "
            "there is one, with a torch that its driver supports, or set device to cpu"
        )
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> Precision:
    """Return the precision that a configuration names; ``auto`` is float32 on CPU and bfloat16 on GPU."""
    if name in get_args(Quantized):
        return cast(Quantized, name)
    dtype: torch.dtype = getattr(torch, DTYPES[device.type] if name == "auto" else name)
    return dtype


def precision_of(model: Any) -> str:
    """Return the name of the precision of a model's weights: ``float32``, ``nf4``, ..."""
    method: Any = getattr(model.config, "quantization_config", None)
    if method is not None:
        return "nf4" if method.load_in_4bit else "int8"
    return str(model.dtype).removeprefix("torch.")


def _loading(dtype: Precision, device: torch.device) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for a precision, and for several GPUs if this process has several."""
    spread = device.type == "cuda" and torch.cuda.device_count() > 1
    if isinstance(dtype, torch.dtype):
        return {"dtype": dtype, **({"device_map": "balanced"} if spread else {})}
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ConfigError(f"dtype: {dtype} needs bitsandbytes; pip install 'lofit[quantized]', or set dtype to auto")
    computed = getattr(torch, DTYPES[device.type])
    quantized = (
        BitsAndBytesConfig(load_in_8bit=True)
        if dtype == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed)
    )
    return {
        "dtype": computed,
        "quantization_config": quantized,
        "device_map": "balanced" if spread else {"": str(device)},
    }


_PRELOADED: dict[tuple[Path, str], tuple[int, PreTrainedModel]] = {}
"""Models that were read before this process was forked, by folder and precision; each with the modification time of
its ``source.json``."""


_loaded_after: float | None = None


def preload(folder: Path, dtype: str, device: str) -> None:
    """Read a model into host memory, for the first :func:`load_model` of every process that is forked from this one.

    Args:
        folder: folder of the weights.
        dtype: precision, as configured; quantized weights are not preloaded, since they are quantized on the device.
        device: device on which the model will run, as configured; it is not touched.
    """
    precision = pick_dtype(dtype, torch.device(device))
    if isinstance(precision, torch.dtype):
        model = _read_model(folder, torch.device("cpu"), precision)
        _PRELOADED[folder.resolve(), str(precision)] = (_time(folder), model)


def _time(folder: Path) -> int:
    return (folder / "source.json").stat().st_mtime_ns


def load_model(folder: Path, device: torch.device, dtype: Precision, source: Path | None = None) -> PreTrainedModel:
    """Load a decoder-only model from a local folder, frozen and in evaluation mode (no dropout).

    Args:
        folder: folder of the weights.
        device: device of the model; for ``cuda`` its layers are spread over all GPUs that are visible to this process.
        dtype: precision of the weights; with quantized weights, computation is in the device's usual precision.
        source: folder whose ``source.json`` says whether code that comes with the model is trusted; None: ``folder``.

    Raises:
        SourceError: the folder holds no loadable model.
        ConfigError: ``dtype`` is quantized and bitsandbytes is not installed.
    """
    # A preloaded model is used once only: by the next call it may carry an adapter.
    read, model = _PRELOADED.pop((folder.resolve(), str(dtype)), (0, None))
    if model is not None and read == _time(folder):
        model.to(device)  # type: ignore[arg-type]  # its decorator hides its signature
    else:
        model = _read_model(folder, device, dtype, source)
    global _loaded_after
    if _loaded_after is None:
        _loaded_after = seconds_since_start()
    return model


def loaded_after() -> float | None:
    """Return the seconds from the start of this process's node until its first model was loaded; None: none was."""
    return _loaded_after


def _read_model(folder: Path, device: torch.device, dtype: Precision, source: Path | None = None) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, GenerationConfig

    options, trusted = _loading(dtype, device), _trusted(source or folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            **options,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=trusted,
            output_loading_info=True,
        )
    except Exception as error:  # damaged weights and configurations can make transformers raise anything
        if out_of_memory(error):
            raise
        raise SourceError(f"{folder}: no loadable causal language model ({brief(error)})") from None
    model, info = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:  # transformers gives such weights random values
            raise SourceError(f"{folder}: weights do not fit config.json ({kind}: {sorted(map(str, info[kind]))[0]})")
    # Only the special tokens of a checkpoint's generation config are kept, so that greedy is greedy for every model.
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(**{name: getattr(model.generation_config, name, None) for name in names})
    model.requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes' fast 4-bit path on CPU has no backward pass, and gives no error when one is needed.
            cast(Any, module).support_avx512bf16_for_cpu = False
    if isinstance(dtype, torch.dtype) and not hasattr(model, "hf_device_map"):
        model.to(device)
    return model.eval()


def _trusted(folder: Path) -> bool:
    """Whether the model's source is configured to allow code that comes with the model."""
    record = folder / "source.json"
    return record.is_file() and bool(read_json(record)["source"].get("trust_remote_code", False))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer: answer spans are located by character offsets, which slow tokenizers lack.

    Raises:
        SourceError: there is no loadable tokenizer, or it is not fast.
        FitError: the tokenizer has no end-of-sequence token, with which every answer ends, or that token is not in the
            model's vocabulary.
    """
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": _trusted(folder)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        vocabulary = AutoConfig.from_pretrained(folder, **options).get_text_config().vocab_size
    except Exception as error:  # damaged files can make transformers raise anything
        raise SourceError(f"{folder}: no loadable tokenizer ({brief(error)})") from None
    if not tokenizer.is_fast:
        raise SourceError(f"{folder}: the tokenizer gives no character offsets; use a model with a fast tokenizer")
    if tokenizer.eos_token_id is None:
        raise FitError(f"{folder}: the tokenizer has no end-of-sequence token; choose a model that has one")
    check_ids([tokenizer.eos_token_id], vocabulary, f"{folder}, end-of-sequence")
    return tokenizer


def vocabulary_of(model: Any) -> int:
    """Return the number of rows of a model's input embedding."""
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows
