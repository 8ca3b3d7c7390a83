"""FourierFT: a few spectral coefficients of the update of linear maps, by PEFT."""

from lofit.methods.peft import preset

METHOD = preset(
    "fourierft",
    {"peft_type": "FOURIERFT", "n_frequency": 1000, "scaling": 300.0},
    summary="a few Fourier coefficients of the update of query and value projections",
    source="Gao et al. 2024 (arXiv 2405.03003); MetaMathQA comparison of huggingface/peft@5d602fd: fourierft",
    learns="W' = W + s Re(IDFT2(F)), with F nonzero at n places drawn from the seed, by gradient",
    parameters="n per target module",
    deviations="as in PEFT's default, it does not start from the base model",
)
