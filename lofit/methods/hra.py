"""HRA: a chain of Householder reflections of the input of linear maps, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "hra",
    {"peft_type": "HRA", "r": 8},
    summary="Householder reflections of the input of query and value projections",
    source="Yuan et al. 2024 (arXiv 2405.17484); rank 8",
    learns="W' = W prod_i (I - 2 u_i u_i^T / |u_i|^2) for r vectors u_i, by gradient",
    parameters="r in, summed over the target modules",
)
