"""Prompt tuning: trained embeddings of virtual tokens in front of every text, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "prompt_tuning",
    {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"},
    summary="trained embeddings of virtual tokens in front of every text",
    source="Lester et al. 2021 (arXiv 2104.08691); 20 tokens, beyond which gains are marginal there (section 3.2)",
    learns="the embeddings of n virtual tokens, from those of random tokens, by gradient",
    parameters="n D",
    deviations="starts from tokens of the whole vocabulary, not of the 5,000 most common; AdamW, not Adafactor",
    foldable=False,
)
