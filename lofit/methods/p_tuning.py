"""P-tuning: embeddings of virtual tokens in front of every text, trained through an encoder, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "p_tuning",
    {"peft_type": "P_TUNING", "num_virtual_tokens": 20},
    summary="embeddings of virtual tokens in front of every text, trained through an encoder",
    source="Liu et al. 2021 (arXiv 2103.10385); MetaMathQA comparison of huggingface/peft@5d602fd: ptuning",
    learns="n vectors and an MLP of three maps that makes of each the embedding of a virtual token, by gradient",
    parameters="n D; the MLP is not stored",
    deviations="all virtual tokens are in front of the prompt, none within it; PEFT's MLP, not an LSTM",
    foldable=False,
)
