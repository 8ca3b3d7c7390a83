"""Lily: low-rank updates whose factors are shared by layers and mixed by a router, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "lily",
    {"peft_type": "LILY", "r": 32, "stride_A": 2, "num_B": 2, "scaling": 2.0},
    summary="low-rank updates whose factors are shared by layers and mixed by a router",
    source="Zhong et al. 2024 (arXiv 2407.09946); num_B, scaling of PEFT's comparison",
    learns="W' x = W x + s sum_j p_j(A x) B_j A x, A shared by `stride_A` layers, B_j by all, p a router, by gradient",
    parameters="r in per group of layers and kind of target, num_B r out per kind, num_B r per target",
    foldable=False,
)
