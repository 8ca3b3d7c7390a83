"""SHiRA: a sparse update of linear maps at random places, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "shira",
    {"peft_type": "SHIRA", "r": 8},
    summary="a sparse update at random places of the query and value projections",
    source="Bhardwaj et al. 2024 (arXiv 2406.13175), SHiRA-Rand; as many values as LoRA of rank 8",
    learns="r (in + out) entries of each target, at places drawn from the seed, by gradient",
    parameters="r (in + out), summed over the target modules",
)
