"""BEFT: the bias of the value projection, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "beft",
    {"peft_type": "BEFT"},
    summary="the bias of the value projection",
    source="Huang et al. 2025 (arXiv 2509.15974); MetaMathQA comparison of huggingface/peft@5d602fd: beft",
    learns="a change of the bias of the value projection of every layer, by gradient",
    parameters="out of the value projection, summed over layers",
    deviations="the bias is added where the family has none, starting from 0",
    foldable=False,
)
