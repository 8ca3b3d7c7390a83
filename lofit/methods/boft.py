"""BOFT: butterfly-factorised orthogonal transformations of linear maps, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "boft",
    {"peft_type": "BOFT", "boft_block_size": 4, "boft_n_butterfly_factor": 1},
    summary="butterfly-factorised orthogonal rotations and output scales of query and value projections",
    source="Liu et al. 2023 (arXiv 2311.06243); MetaMathQA comparison of huggingface/peft@5d602fd: boft",
    learns="W' = diag(s) W R, with R a product of m butterfly factors of orthogonal blocks of size b, by gradient",
    parameters="m in b + out, summed over the target modules",
)
