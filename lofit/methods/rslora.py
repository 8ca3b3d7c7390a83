"""rsLoRA: LoRA whose update is scaled by alpha / sqrt(r), by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "rslora",
    {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_rslora": True},
    summary="LoRA with an update scaled by the square root of its rank",
    source="Kalajdzievski 2023 (arXiv 2312.03732); rank and alpha of lora here",
    learns="W' = W + (alpha / sqrt(r)) B A for the query and value projections of every layer, by gradient",
    parameters="r (in + out), summed over the target modules",
)
