"""Convert a GGUF file to a plain transformers folder in float32.

A model loaded from a GGUF file is marked as quantised, which makes ``save_pretrained`` refuse, although its weights
were expanded to full precision. The marks are removed, the weights are stored as safetensors, and the written folder is
loaded again to verify that it is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lofit.errors import SourceError, brief


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer held in ``gguf`` to ``folder`` as a plain transformers folder.

    All weights are stored in float32 (a quantised block expands to float32 without further loss). The folder holds
    config.json, generation_config.json, model.safetensors, and the tokenizer with its chat template.

    Args:
        gguf: a GGUF file of an architecture that transformers can read.
        folder: where to write; created if missing. Not atomic: the caller passes a scratch path.

    Raises:
        SourceError: transformers cannot read the file, or the written folder does not reload completely.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    origin, name = str(gguf.parent), gguf.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(origin, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=torch.float32)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise SourceError(
            f"transformers cannot read {gguf} ({brief(error)}); use a GGUF architecture that it supports, "
            "or a hub or local model"
        ) from error
    _strip_quantisation(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_reload(folder, gguf)


def _strip_quantisation(model: Any) -> None:
    """Remove the marks that make transformers treat the expanded weights as quantised."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for marker in ("hf_quantizer", "quantization_method"):
        if hasattr(model, marker):
            delattr(model, marker)
    model.is_quantized = False


def _check_reload(folder: Path, gguf: Path) -> None:
    """Load ``folder`` again and raise SourceError if weights are missing, unexpected or of the wrong shape."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    info: dict[str, Any] = loaded[1]
    faults = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind.endswith("_keys")}
    if faults:
        listed = "; ".join(f"{kind}: {', '.join(keys[:3])}" for kind, keys in sorted(faults.items()))
        raise SourceError(f"the model converted from {gguf} does not reload completely ({listed}); use another source")
