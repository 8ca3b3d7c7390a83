"""C3A: block-circular convolutions added to linear maps, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "c3a",
    {"peft_type": "C3A", "block_size": 64},
    summary="block-circular convolutions added to query and value projections",
    source="Chen et al. 2024 (arXiv 2407.19342); MetaMathQA comparison of huggingface/peft@5d602fd: c3a",
    learns="W' = W + C, with C of circulant blocks of size b, by gradient",
    parameters="in out / b, summed over the target modules",
    deviations="as in PEFT's default, it does not start from the base model",
)
