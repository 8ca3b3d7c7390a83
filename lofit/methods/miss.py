"""MiSS: one small matrix, repeated over the inputs of linear maps, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "miss",
    {"peft_type": "MISS", "r": 64},
    summary="one r x out matrix, repeated along the input, added to each target",
    source="Kang and Yin 2024 (arXiv 2409.15371); MetaMathQA comparison of huggingface/peft@5d602fd: miss",
    learns="W' x = W x + D^T (sums of x over blocks of r inputs), D of r x out, by gradient",
    parameters="r out, summed over the target modules",
)
