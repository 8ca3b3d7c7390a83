"""Precision of the base model."""

DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""Precision that ``dtype: auto`` stands for, by device: bfloat16 is far slower on CPU."""
