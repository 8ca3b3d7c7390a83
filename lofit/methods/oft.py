"""OFT: orthogonal transformations of the input of linear maps, in blocks, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "oft",
    {"peft_type": "OFT", "oft_block_size": 32, "r": 0},
    summary="orthogonal block rotations of the input of query and value projections",
    source="Qiu et al. 2023 (arXiv 2306.07280), Cayley-Neumann form (arXiv 2506.19847); PEFT's block size",
    learns="W' = W R, with R orthogonal in blocks of b inputs (Cayley of skew-symmetric matrices), by gradient",
    parameters="in (b - 1) / 2, summed over the target modules",
)
