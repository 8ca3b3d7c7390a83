"""HiRA: a low-rank factor that multiplies linear maps elementwise, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "hira",
    {"peft_type": "HIRA", "r": 8},
    summary="elementwise multiplication of query and value projections by a low-rank matrix",
    source="Huang et al. 2025 (ICLR, openreview TwJrTz9cRS); rank 8",
    learns="W' = W + W * (B A), elementwise, by gradient",
    parameters="r (in + out), summed over the target modules",
)
