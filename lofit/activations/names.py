"""Names that configurations and rules use; imports nothing heavy."""

from typing import Literal

Direction = Literal["mass_mean", "probe", "random"]
"""Ways to estimate a head's direction (ITI)."""
Reading = Literal["pca", "mean_difference"]
"""Ways to estimate a reading vector of the residual stream (RepE)."""
FILES = ("texts.parquet", "heads.npy", "blocks.npy", "activations.json")
"""Files that a capture node writes."""
