"""RandLoRA: full-rank updates from scaled sums of random low-rank matrices, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "randlora",
    {"peft_type": "RANDLORA", "r": 32, "randlora_alpha": 640},
    summary="learned scales of frozen random low-rank matrices, whose sum has full rank",
    source="Albert et al. 2025 (arXiv 2502.00987); MetaMathQA comparison of huggingface/peft@5d602fd: randlora",
    learns="W' = W + (alpha / r) sum_i B_i diag(l_i) A diag(g_i) with frozen random B_i and A, by gradient",
    parameters="n r + n min(in, out), with n = ceil(min(in, out) / r), summed over the target modules",
)
