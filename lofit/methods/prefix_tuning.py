"""Prefix tuning: trained keys and values of virtual tokens in front of every text, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "prefix_tuning",
    {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": 10,
        "prefix_projection": True,
        "encoder_hidden_size": 512,
    },
    summary="trained keys and values of virtual tokens in front of every text, in every layer",
    source="Li and Liang 2021 (arXiv 2101.00190); XiangLi1999/PrefixTuning@6519d30: 10 tokens and 512 hidden units",
    learns="n vectors and an MLP that makes of each its keys and values in all layers, by gradient",
    parameters="2 n times the width of the keys of a layer, summed over layers; the MLP is not stored",
    deviations="as in PEFT, the n vectors are as wide as the keys of a layer, not as the model",
    foldable=False,
)
