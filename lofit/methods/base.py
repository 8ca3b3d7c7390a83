"""The unmodified model."""

from lofit.methods.spec import Method, NoParams

METHOD = Method(
    name="base",
    summary="the model as it is, zero-shot",
    source="baseline of LoFiT (arXiv 2406.01563), Table 1",
    Params=NoParams,
)
