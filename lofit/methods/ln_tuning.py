"""LN tuning: the weights of the norms, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "ln_tuning",
    {"peft_type": "LN_TUNING"},
    summary="the weights of the norms in the layers",
    source="Zhao et al. 2023 (arXiv 2312.11420)",
    learns="the weights (and biases) of every norm in the layers, by gradient",
    parameters="the sizes of these norms",
)
