"""Precision of the base model."""

from typing import Literal

Quantized = Literal["int8", "nf4"]
"""Weights in 8 bits (LLM.int8(), arXiv 2208.07339) or 4 (NormalFloat, arXiv 2305.14314), by bitsandbytes."""

Dtype = Literal["auto", "float32", "bfloat16", "int8", "nf4"]

DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""Precision that ``dtype: auto`` stands for, by device: bfloat16 is far slower on CPU."""
