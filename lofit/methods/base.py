"""The unmodified model."""

from lofit.methods.method import Method
from lofit.spec.hyperparameters import NoParams

METHOD = Method(
    name="base",
    summary="the model as it is, zero-shot",
    source="baseline of LoFiT (arXiv 2406.01563), Table 1",
    Params=NoParams,
    learns="nothing",
    parameters="0",
    seeded=False,
)
