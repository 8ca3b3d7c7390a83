"""Precision of the base model."""

DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""By configured device, where the configuration leaves it open: bfloat16 is far slower on CPU."""
